"""What was tried, as data: each attempt prints TRIED, and GOT with what it got hold of where it got anything."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Attempt:
    """`allowed_in`: tiers where it may succeed, and why that gives nothing away."""

    name: str
    program: str
    allowed_in: dict[str, str] = field(default_factory=dict)


_HELP = """
import ctypes, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def got(what, doing):
    try:
        value = doing()
        if value is not False and value is not None: print("GOT", what, repr(value)[:100])
    except BaseException as error:
        pass
print("TRIED")
"""


def _attempt(name: str, code: str, **allowed: str) -> Attempt:
    return Attempt(name, _HELP + code, allowed)


_OWN_KERNEL = "its own kernel lets its own root do so; the host's is behind it"

ATTEMPTS: tuple[Attempt, ...] = (
    _attempt("reads a host file", "got('file', lambda: open('CANARY').read())"),
    _attempt("reads a host file through proc", "for p in ('/proc/1/root', '/proc/self/root', '/proc/self/cwd/../..', '/proc/thread-self/root'): got(p, lambda: open(p + 'CANARY').read())"),
    _attempt("reads Bastide's own data", "for n in ('admin.key', 'secrets.key', 'bastide.db', 'sandboxes/addresses.key'): got(n, lambda: open('DATA/' + n, 'rb').read(20))"),
    _attempt("lists the host's root and homes", "got('data', lambda: os.listdir('DATA')); got('home', lambda: [n for n in os.listdir('/root') if n not in ('.pyenv', '.local')] or False)"),
    _attempt("reads the host's shadow and keys", "for n in ('/etc/shadow', '/etc/ssh/ssh_host_ed25519_key', '/root/.ssh/id_rsa', '/var/lib/dpkg/status'): got(n, lambda: open(n, 'rb').read(10))"),
    _attempt("writes where the host runs programs from", "for n in ('/usr/bin/x', '/usr/lib/x', '/bin/x', '/etc/ld.so.preload', '/etc/passwd'): got(n, lambda: open(n, 'a').write('x'))"),
    _attempt("leaves by descriptors that were forgotten", "for n in range(3, 256):\n    try: path = os.readlink('/proc/self/fd/%d' % n)\n    except OSError: continue\n    if not path.startswith(('/proc', 'pipe:', 'anon_inode', 'socket:')) and 'deleted' not in path: print('GOT', n, path)"),
    _attempt("leaves by a directory that is moved", "os.makedirs('/tmp/a/b', exist_ok=True); fd = os.open('/tmp/a/b', 0)\ndef out():\n    try: os.chroot('/tmp/a')\n    except OSError: return None\n    os.fchdir(fd)\n    for _ in range(30): os.chdir('..')\n    return os.path.exists('.' + 'CANARY') or None\ngot('chroot', out)"),
    _attempt("sees the host's processes", "got('pid', lambda: HOST_PID > 1000 and open('/proc/HOST_PID/cmdline').read() or None); got('many', lambda: len([n for n in os.listdir('/proc') if n.isdigit()]) > 100 or None)"),
    _attempt("signals the host's processes", "got('signal', lambda: HOST_PID > 1000 and os.kill(HOST_PID, 0) is None and not os.path.exists('/proc/HOST_PID') or None)"),
    _attempt("traces another process", "PTRACE_ATTACH = 16\npid = os.fork()\nif pid == 0:\n    import time; time.sleep(5); os._exit(0)\ngot('ptrace', lambda: libc.ptrace(PTRACE_ATTACH, pid, 0, 0) == 0 or None)\nos.kill(pid, 9)", gvisor=_OWN_KERNEL),
    _attempt("makes a user namespace", "got('unshare', lambda: libc.unshare(0x10000000) == 0 or None)", gvisor=_OWN_KERNEL),
    _attempt("makes namespaces by clone", "import platform\nnr = {'x86_64': 56, 'aarch64': 220}[platform.machine()]\ndef clone():\n    pid = libc.syscall(nr, 0x10000000 | 17, 0, 0, 0, 0)\n    if pid == 0: os._exit(0)\n    return pid > 0 or None\ngot('clone', clone)", gvisor=_OWN_KERNEL),
    _attempt("has capabilities", "s = dict(l.split(':', 1) for l in open('/proc/self/status').read().splitlines()); got('caps', lambda: int(s['CapEff'], 16) or int(s['CapPrm'], 16) or int(s['CapBnd'], 16) or None)", gvisor=_OWN_KERNEL),
    _attempt("gains rights by setuid programs", "import subprocess\nr = subprocess.run(['su', '-c', 'id'], capture_output=True, text=True, stdin=subprocess.DEVNULL) if os.path.exists('/usr/bin/su') and os.getuid() else None\ngot('su', lambda: r is not None and 'uid=0' in r.stdout or None)"),
    _attempt("mounts", "got('tmpfs', lambda: libc.mount(b'none', b'/mnt', b'tmpfs', 0, None) == 0 or None); got('bind', lambda: libc.mount(b'/', b'/tmp', None, 4096, None) == 0 or None); got('proc', lambda: libc.mount(b'proc', b'/tmp', b'proc', 0, None) == 0 or None)", gvisor=_OWN_KERNEL),
    _attempt("makes what is read-only writable", "got('remount', lambda: libc.mount(b'none', b'/usr', None, 32 | 4096, None) == 0 and open('/usr/x', 'w') and True or None)"),
    _attempt("unmounts what hides something", "for n in (b'/usr', b'/proc', b'/dev', b'/tmp', b'/etc/passwd'): got(n, lambda: libc.umount2(n, 2) == 0 and os.path.exists('CANARY') or None)"),
    _attempt("opens tunnels and file systems of its own", "for n in ('fuse', 'net/tun', 'vhost-net'): got(n, lambda: open('/dev/' + n, 'rb') and True)", gvisor=_OWN_KERNEL),
    _attempt("opens devices", "for n in ('mem', 'kmem', 'port', 'kmsg', 'kvm', 'sda', 'vda', 'nvme0n1', 'loop0', 'loop-control', 'dri/card0', 'nvidia0', 'zram0'): got(n, lambda: open('/dev/' + n, 'rb') and True)"),
    _attempt("makes devices", "import stat\nfor major, minor in ((1, 1), (8, 0), (254, 0), (7, 0)):\n    def make():\n        os.mknod('/tmp/dev%d' % major, stat.S_IFBLK | 0o666, os.makedev(major, minor))\n        return open('/tmp/dev%d' % major, 'rb').read(512)\n    got('mknod', make)"),
    _attempt("changes the kernel's settings", "for n in ('kernel/core_pattern', 'kernel/hostname', 'vm/drop_caches', 'kernel/modprobe', 'fs/file-max'): got(n, lambda: open('/proc/sys/' + n, 'w').write('1'))", gvisor=_OWN_KERNEL),
    _attempt("reaches sysrq, kcore and kernel memory", "got('sysrq', lambda: open('/proc/sysrq-trigger', 'w').write('h')); got('kcore', lambda: open('/proc/kcore', 'rb').read(64) or None); got('kallsyms', lambda: any(int(l.split()[0], 16) for l in open('/proc/kallsyms').readlines()[:50]) or None)", gvisor=_OWN_KERNEL),
    _attempt("reads the kernel's log", "got('syslog', lambda: libc.klogctl(3, ctypes.create_string_buffer(100), 100) > 0 and HOST_PID and None if os.path.exists('/proc/sys/kernel/gvisor') else None); got('dmesg', lambda: open('/dev/kmsg').read(10))"),
    _attempt("uses control groups to run on the host", "for base in ('/sys/fs/cgroup', '/tmp/cg'):\n    got(base, lambda: libc.mount(b'cgroup', base.encode(), b'cgroup', 0, b'memory') == 0 and open(base + '/release_agent', 'w').write('/bin/x'))\n    got(base + ' write', lambda: open(base + '/release_agent', 'w').write('/tmp/x'))\n    got(base + ' procs', lambda: open(base + '/cgroup.procs', 'w').write('1'))"),
    _attempt("loads kernel code", "import platform\nfor nr in {'x86_64': (175, 313, 321, 246), 'aarch64': (105, 273, 280, 104)}[platform.machine()]: got(nr, lambda: libc.syscall(nr, 0, 0, 0, 0) >= 0 or None)"),
    _attempt("uses dangerous kernel interfaces", "import platform\nfor nr in {'x86_64': (323, 425, 298, 250, 248, 303, 304, 310), 'aarch64': (282, 425, 241, 219, 217, 264, 265, 270)}[platform.machine()]:\n    got(nr, lambda: libc.syscall(nr, 1, 0, 0, 0, 0) >= 0 or None)", gvisor="those it has are its own kernel's; the host's filter lets none of them through"),
    _attempt("opens raw and packet sockets", "got('raw', lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1) and True); got('packet', lambda: socket.socket(17, socket.SOCK_RAW, 3) and True); got('vsock', lambda: socket.socket(40, socket.SOCK_STREAM) and True); got('alg', lambda: socket.socket(38, socket.SOCK_SEQPACKET) and True)"),
    _attempt("reaches the host's loopback", "for port in (22, 80, 443, 5432, 8787): got(port, lambda: socket.create_connection(('127.0.0.1', port), 0.5) and True)"),
    _attempt("reaches the host's abstract sockets", "names = [l.split()[-1] for l in open('/proc/net/unix').read().splitlines()[1:] if '@' in l] if os.path.exists('/proc/net/unix') else []\ngot('abstract', lambda: names or None)"),
    _attempt("reaches the host's well-known sockets", "for n in ('/var/run/docker.sock', '/run/dbus/system_bus_socket', '/run/systemd/private', '/run/containerd/containerd.sock', 'DATA/sockets/control', 'DATA/sockets/boxes'): got(n, lambda: socket.socket(socket.AF_UNIX).connect(n) is None)"),
    _attempt("types into the terminal it came from", "import fcntl, termios\nfor fd in (0, 1, 2): got(fd, lambda: fcntl.ioctl(fd, termios.TIOCSTI, b'x') is not None)"),
    _attempt("reads others' shared memory", "got('shm', lambda: os.listdir('/dev/shm') or None); got('ipc', lambda: len(open('/proc/sysvipc/shm').read().splitlines()) > 1 or None)"),
    _attempt("learns the host's interfaces", "got('net', lambda: [l.split(':')[0].strip() for l in open('/proc/net/dev').read().splitlines()[2:] if l.split(':')[0].strip() != 'lo'] or None)"),
    _attempt("changes the host's clock and name", "got('clock', lambda: libc.clock_settime(0, ctypes.create_string_buffer(16)) == 0 or None); got('name', lambda: libc.sethostname(b'evil', 4) == 0 and open('/proc/sys/kernel/hostname').read() == 'nothing' or None)"),
    _attempt("makes hard links to the host's files", "for n in ('/usr/bin/env', '/etc/passwd', '/usr/lib/os-release'): got(n, lambda: os.link(n, '/tmp/hard') is None)"),
    _attempt("changes what the agent's code is", "for n in ('agent.py', 'wire.py', 'new.py'): got(n, lambda: open('/run/bastide/inside/' + n, 'a').write('x'))"),
)  # fmt: skip
