"""The names that `dreamsim_guidance.known_answers` exports."""

import dreamsim_guidance.known_answers as known_answers


def test_every_exported_name_can_be_imported() -> None:
    assert all(getattr(known_answers, name) is not None for name in known_answers.__all__)
    assert {"GaussianMixture", "LinearEnergy", "exact_pipeline", "errors", "digits"} <= set(known_answers.__all__)
