if __name__ != "dreamsim_guidance.recipes":
    raise ImportError("This folder is the package dreamsim_guidance.recipes: import it by that name.")
