if __name__ != "dreamsim_guidance.losses":
    raise ImportError("This folder is the package dreamsim_guidance.losses: import it by that name.")
