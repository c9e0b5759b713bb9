if __name__ != "dreamsim_guidance.training":
    raise ImportError("This folder is the package dreamsim_guidance.training: import it by that name.")
