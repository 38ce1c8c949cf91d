"""Programs that really are in the situations that verdicts and holder paths are about."""
