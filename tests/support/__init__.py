"""What several test files share. Importable as ``support``: see conftest.py."""
