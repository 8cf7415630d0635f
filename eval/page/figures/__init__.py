"""The drawings of the report, made by matplotlib as SVG."""
