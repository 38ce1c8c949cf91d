"""What sockguard costs, measured against the same work unguarded; see docs/benchmarks.md."""
