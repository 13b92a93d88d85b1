"""A lake becomes an HTTP application: `web.py` puts it together, one file holds one group of endpoints.

A group is a file with a `router`; its name is listed in `web.GROUPS`. Nothing but `app.py` knows Ray Serve, so that an
endpoint is tested in its own process (`web.application`), and with Serve around it where Serve matters.
"""
