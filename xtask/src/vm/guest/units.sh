# systemd's units, written into the root (the working folder) before systemd starts: what a login needs, and
# nothing of the host's own boot, each unit of which would take its second in an emulated machine.
units=etc/systemd/system
rm -rf $units/*.wants $units/default.target etc/systemd/user/*.wants
mkdir -p $units run/lock run/log/journal
mask() { for unit; do ln -sfn /dev/null "$units/$unit"; done; }

# No disks, no crypt tabs, no init.d scripts to look for.
for kind in system user; do
  mkdir -p etc/systemd/$kind-generators
  for generator in usr/lib/systemd/$kind-generators/*; do
    ln -sfn /dev/null "etc/systemd/$kind-generators/${generator##*/}"
  done
done
# No clock, network, devices, first boot, keyboard or updates either.
for service in systemd-timesyncd systemd-networkd systemd-resolved systemd-random-seed systemd-hwdb-update \
  ldconfig systemd-journal-flush systemd-journal-catalog-update systemd-update-done systemd-firstboot \
  systemd-sysusers systemd-machine-id-commit systemd-boot-system-token systemd-pcrphase \
  systemd-pcrphase-sysinit systemd-pstore e2scrub_reap systemd-remount-fs systemd-binfmt systemd-modules-load \
  modprobe@configfs modprobe@drm modprobe@efi_pstore systemd-update-utmp systemd-repart systemd-fsck-root \
  keyboard-setup console-setup apparmor networking systemd-sysctl systemd-tmpfiles-setup-dev \
  kmod-static-nodes systemd-vconsole-setup systemd-tmpfiles-setup systemd-udevd systemd-udev-trigger \
  systemd-udev-settle docker containerd podman; do
  mask $service.service
done
mask systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-initctl.socket docker.socket \
  podman.socket dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount \
  sys-kernel-config.mount sys-fs-fuse-connections.mount proc-sys-fs-binfmt_misc.automount \
  systemd-tmpfiles-clean.timer systemd-ask-password-console.path systemd-ask-password-wall.path

cat >$units/tare-vm.target <<'UNIT'
[Unit]
Requires=basic.target tare-vm.service
After=basic.target
AllowIsolate=yes
UNIT
ln -s tare-vm.target $units/default.target
# Delegate: as root's command may make cgroups below its own, where systemd leaves them alone.
cat >$units/tare-vm.service <<'UNIT'
[Unit]
Requires=dbus.socket
Wants=systemd-logind.service
After=basic.target dbus.socket systemd-logind.service
[Service]
ExecStart=/run/tare-vm/busybox sh /run/tare-vm/session
Delegate=yes
LimitNOFILE=1048576
UNIT
# A user's systemd gets every controller, which distributions leave to the administrator.
mkdir -p $units/user@.service.d
cat >$units/user@.service.d/tare-vm.conf <<'UNIT'
[Service]
Delegate=cpu cpuset io memory pids
UNIT
