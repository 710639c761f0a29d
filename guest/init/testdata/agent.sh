# What stands in for the agent in the boot tests, run by busybox in the root. Each answer is a line that begins with its name.
say() { while read -r line; do echo "$1: $line"; done; }

case "$1" in
look)
  for word in "$@"; do echo "argument: $word"; done
  tr '\0' '\n' < /proc/$$/environ | say environment
  while read -r source point type options rest; do echo "mount: $source $point $type $options"; done < /proc/self/mounts
  say controllers < /sys/fs/cgroup/cgroup.subtree_control
  say loopback < /sys/class/net/lo/flags
  ping -c 1 -W 30 127.0.0.1 | grep received | say ping
  grep 'open files' /proc/$$/limits | say limit
  grep -E '^(SigBlk|Pid|PPid|NSsid):' /proc/$$/status | tr '\t' ' ' | say status
  echo "process: $$"
  for number in 0 1 2 3 4 5; do [ -e /proc/$$/fd/$number ] && echo "descriptor: $number $(readlink /proc/$$/fd/$number)"; done
  ls /proc/1/fd | tr '\n' ' ' | { read -r list; echo "descriptors of 1: $list"; }
  ls -a / | tr '\n' ' ' | { read -r list; echo "root: $list"; }
  touch /etc/here 2>&1 | say write
  exit 7 ;;
orphans)
  mkfifo /run/gate
  # Their parents are gone at once; they themselves go together when the gate opens.
  for ten in 1 2 3 4 5 6 7 8 9 10; do (for one in 1 2 3 4 5 6 7 8 9 10; do (read -r none < /run/gate; exit 3) & done); done
  count() { cat /proc/[0-9]*/stat 2> /run/complaints | grep -c "$1"; }
  # This process, too, is a child of process 1.
  while [ "$(count '(busybox) [SRZ] 1 ')" -lt 101 ]; do :; done
  echo 'orphans: all'
  : > /run/gate
  # A child that is not waited for stays in /proc for ever.
  while [ "$(count '(busybox) [SRZ] 1 ')" -gt 1 ]; do :; done
  echo "unreaped: $(count ') Z ')"
  kill -TERM 1; kill -INT 1; kill -KILL 1
  # What is still there when the agent ends must not keep the machine on.
  (while :; do read -r none < /run/gate; done) &
  kill -SEGV $$ ;;
vsock)
  cd /usr/lib/sealpod || exit 1
  ./helper load modules/vsock.ko modules/vmw_vsock_virtio_transport_common.ko modules/vsock_loopback.ko
  ./helper load modules/vsock.ko 'modules/none.ko?' && echo 'load: again'
  ./helper load modules/none.ko; echo "load: $?"
  ./helper listen-vsock 1024 /usr/lib/sealpod/peer vsock 1024
  ./helper listen-vsock 4294967295 /usr/lib/sealpod/peer; echo "port: $?"
  ./helper listen-vsock 1025 /nowhere; echo "program: $?"
  ./helper power-off
  echo 'power-off came back' ;;
esac
