# Runs the command, passes on what it says, tells how it ended, and ends the guest.
. /run/tare-vm/config
cd /run/tare-vm || exit
# As on every machine that systemd has booted.
mount --make-rshared /

# A port can be opened once only, and a command may well open /dev/stdout again: so pipes are in between.
mkfifo -m 666 out err
cat out >/dev/virtio-ports/out &
out=$!
cat err >/dev/virtio-ports/err &
err=$!
exec 7>out 8>err
# By the host's sh: this one would run its own applets in place of the host's programs.
set -- /bin/sh /run/tare-vm/command
if [ "$user" = root ]; then
  export HOME=/root USER=root LOGNAME=root
else
  set -- /bin/sh /run/tare-vm/as-user "$@"
fi
"$@" </dev/null >&7 2>&8 7>&- 8>&-
status=$?
exec 7>&- 8>&-
# All is out when both have ended. But what the command left running may hold the pipes open for ever.
tries=0
while [ $tries -lt 40 ] && { kill -0 $out || kill -0 $err; } 2>/dev/null; do
  sleep 0.05
  tries=$((tries + 1))
done
echo $status >/dev/virtio-ports/status
# At once, by SysRq: nothing here is worth a shutdown.
echo o >/proc/sysrq-trigger
sleep 100
