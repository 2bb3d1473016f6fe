from tests.training.test_start import train  # noqa: F401 - the fixture of these tests
