"""Where pictures come from: files, webdataset shards, Parquet and Lance tables, lists of paths. One kind per file."""
