#!/bin/sh
# as-user COMMAND…: in a login session of `tester`, which pam_systemd opens, as if they had come in by ssh. Their
# own systemd runs, and XDG_RUNTIME_DIR and DBUS_SESSION_BUS_ADDRESS lead to it.
exec systemd-run --quiet --collect --wait --pipe -p PAMName=login -p User=tester -p "WorkingDirectory=$PWD" -- "$@"
