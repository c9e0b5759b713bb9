"""What a metric attends to: profiles over controlled factors, masks, correlations, distortions and maps."""
