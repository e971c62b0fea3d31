#!/bin/busybox sh
# The guest's process 1, in the initramfs: puts the root together and hands over.
#
# All of it is busybox in one file: each program of the host that were started here would cost some 50 ms of
# emulated exec and of reading through virtiofs.

/bin/busybox --install -s /bin
export PATH=/bin
. /tare-vm/config

# Without a root there is nobody to tell a status: end, and the host shows this console.
die() { echo "tare-vm: $*"; sleep 1; poweroff -f; }

mount -t proc proc /proc && mount -t sysfs sysfs /sys && mount -t devtmpfs dev /dev || die "no /proc, /sys or /dev"
while read -r module; do insmod "/modules/$module" || die "cannot load $module"; done </modules/order

# The host's root, under a layer that takes what is written.
mount -t virtiofs -o ro host /lower || die "cannot mount the host's root"
mount -t tmpfs -o size=50%,mode=755 upper /upper && mkdir /upper/data /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work overlay /root || die "no overlay"
cd /root || die "no root"
mkdir -p proc sys dev run lib/modules scratch
mount -t tmpfs -o mode=755,nosuid,nodev run run
cp -a /tare-vm run/ && cp /bin/busybox run/tare-vm/ || die "cannot copy the scripts"
mount -o bind "/lower$modules" lib/modules || die "the modules are not in the host's root: $modules"

# Nodes whose first use loads the module, as `kmod static-nodes` makes them, and names for the ways out.
mkdir -p /dev/pts /dev/shm /dev/mqueue /dev/net /dev/virtio-ports
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777,nosuid,nodev shm /dev/shm
mount -t mqueue mqueue /dev/mqueue
rm -f /dev/ptmx
ln -s pts/ptmx /dev/ptmx
ln -s /proc/self/fd /dev/fd
ln -s fd/0 /dev/stdin
ln -s fd/1 /dev/stdout
ln -s fd/2 /dev/stderr
[ -e /dev/net/tun ] || mknod -m 666 /dev/net/tun c 10 200
[ -e /dev/fuse ] || mknod /dev/fuse c 10 229
[ -e /dev/loop-control ] || mknod -m 660 /dev/loop-control c 10 237
chmod 666 /dev/fuse
for port in /sys/class/virtio-ports/*; do
  ln -s "/dev/${port##*/}" "/dev/virtio-ports/$(cat "$port/name")"
done

# What the host's /etc says of the host.
echo tare-vm >/proc/sys/kernel/hostname
echo tare-vm >etc/hostname
: >etc/fstab
printf '127.0.0.1 localhost tare-vm\n::1 localhost\n' >etc/hosts
rm -f etc/machine-id
echo 0123456789abcdef0123456789abcdef >etc/machine-id
# With these systemd takes the guest for a container, and ignores its options on the kernel's command line.
rm -f .dockerenv run/.containerenv
ip link set lo up

# A disk for what a tmpfs or an overlay cannot hold: upper folders of overlays, user.* attributes.
mount -t ext4 -o noatime /dev/vda scratch || die "cannot mount the disk"
for folder in tmp var/tmp var/lib/tare var/lib/containers var/lib/docker var/lib/containerd home; do
  mkdir -p "scratch/$folder" "$folder"
  mount -o bind "scratch/$folder" "$folder"
done
chmod 1777 tmp var/tmp
# The host's working folders are to be seen even where they are below one of those.
echo "$keep" | while read -r folder; do
  case $folder in
    /tmp/* | /var/tmp/* | /home/*) mkdir -p ".$folder" && mount -o bind "/lower$folder" ".$folder" ;;
  esac
done

# The ordinary user, with subordinate ids.
grep -q '^tester:' etc/passwd || {
  echo "tester:x:4000:4000::/home/tester:/bin/bash" >>etc/passwd
  echo "tester:x:4000:" >>etc/group
  echo 'tester:*:19000:0:99999:7:::' >>etc/shadow
}
echo tester:1000000:65536 >etc/subuid
echo tester:1000000:65536 >etc/subgid
mkdir -p home/tester
chown 4000:4000 home/tester
chmod 700 home/tester

if [ "$flavour" = systemd ]; then
  sh /tare-vm/units || die "cannot write systemd's units"
  set -- /lib/systemd/systemd
else
  cgroups=/sys/fs/cgroup
  mount -t cgroup2 -o nsdelegate,memory_recursiveprot cgroup2 $cgroups || die "no cgroup v2"
  # Every controller for every child; only the root may have processes beside children.
  for controller in $(cat $cgroups/cgroup.controllers); do echo "+$controller" >$cgroups/cgroup.subtree_control; done
  mkdir $cgroups/session
  set -- /run/tare-vm/busybox sh /run/tare-vm/pid1
fi
# switch_root moves the root, which the kernel refuses for a shared one: session makes it shared afterwards.
mount --move /proc proc && mount --move /sys sys && mount --move /dev dev || die "cannot move /proc, /sys or /dev"
exec switch_root /root "$@"
