#!/bin/sh
# Takes out of the venv $1 what the running operator never imports. The build then imports the operator: too much fails it.
set -eu
site=$(echo "$1"/lib/python3*/site-packages)

rm -rf "$site"/pip "$site"/pip-* "$site"/setuptools "$site"/setuptools-* "$site"/pkg_resources "$site"/_distutils_hack \
    "$site"/distutils-precedence.pth
echo /opt/podium/app >"$site/podium.pth"
