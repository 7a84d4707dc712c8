"""Read settings.ini, the one place where this package describes itself, and hand it to setuptools."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

config = ConfigParser(delimiters=["="])
config.read("settings.ini", encoding="utf-8")
settings = config["DEFAULT"]

setup(
    name=settings["lib_name"],
    version=settings["version"],
    description=settings["description"],
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=settings["author"],
    author_email=settings["author_email"],
    url=settings["git_url"],
    keywords=settings["keywords"],
    license="Apache-2.0",
    packages=find_packages(include=["t2i_nb", "t2i_nb.*"]),
    package_data={"t2i_nb": ["weights/**/*", "weights/**/**/*"]},
    python_requires=f">={settings['min_python']}",
    install_requires=settings["requirements"].split(),
    extras_require={"dev": settings["dev_requirements"].split(), "widget": settings["widget_requirements"].split(), "app": settings["app_requirements"].split()},
    entry_points={"console_scripts": [settings["console_scripts"]]},
    zip_safe=False,
)
