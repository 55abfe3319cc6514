"""JSON Schemas of what lissom writes: `manifest.json` and `report.json`."""
