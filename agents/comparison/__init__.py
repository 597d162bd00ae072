"""Memories compared: `learning` trains every variant, `judging` measures, `report` writes the page."""
