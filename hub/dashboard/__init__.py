"""The web page at `/`: what the API shows and does, for people; server-rendered, and live where a browser runs htmx."""
