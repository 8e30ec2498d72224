#!/bin/sh
# Root file system of the base image, from Debian's packages alone, for machines that no container registry answers.
# Usage: build.sh OUTPUT.tar     Needs root and debootstrap.
set -eu

output=$1
work=$(mktemp -d "$(dirname "$output")/rootfs.XXXXXX")
trap 'rm -rf "$work"' EXIT INT TERM

debootstrap --variant=minbase --include=ca-certificates bookworm "$work"

# Also for packages that later layers install.
cat >"$work/etc/dpkg/dpkg.cfg.d/slim" <<'SLIM'
path-exclude /usr/share/doc/*
path-include /usr/share/doc/*/copyright
path-exclude /usr/share/man/*
path-exclude /usr/share/info/*
path-exclude /usr/share/locale/*
SLIM
find "$work/usr/share/doc" -type f ! -name copyright -delete
rm -rf "$work"/usr/share/man/* "$work"/usr/share/info/* "$work"/usr/share/locale/* \
    "$work"/var/lib/apt/lists/* "$work"/var/cache/apt/*.bin "$work"/var/cache/apt/archives/*.deb \
    "$work"/var/cache/debconf/*-old "$work"/var/log/* "$work"/tmp/* "$work"/dev/*

tar --numeric-owner --xattrs --sort=name -C "$work" -cf "$output.partial" .
mv "$output.partial" "$output"
