"""What a judge server reports about itself. No conversation's text appears in any of it.

logs.py            log lines, as text or JSON, with structured fields
metrics.py         Prometheus metrics
metrics_page.py    the page that shows them
tracing.py         OpenTelemetry spans from the client to the engine
"""
