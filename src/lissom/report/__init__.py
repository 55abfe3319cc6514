"""From evidence to a decision: measuring a run, its gates, the report and its pages."""
