"""Who may use a Gradio page: log-ins, and whose session each open page is."""
