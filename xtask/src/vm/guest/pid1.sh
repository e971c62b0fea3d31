# Process 1 of the bare guest: starts the session in a cgroup of its own, and reaps.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
(
  /bin/sh -c 'echo $PPID' >/sys/fs/cgroup/session/cgroup.procs
  exec /run/tare-vm/busybox sh /run/tare-vm/session
) &
# `wait` comes back when there is no child that this shell knows; orphans may still come.
while :; do wait; sleep 0.1; done
