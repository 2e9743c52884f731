"""A web app in Python, with Flask."""

import os
import platform

from flask import Flask, render_template

app = Flask(__name__)


@app.get("/")
def index():
    return render_template(
        "index.html",
        version=platform.python_version(),
        container=os.environ.get("DYNO", "your machine"),
        greeting=os.environ.get("GREETING"),
    )
