import CLibc
import Libc

/// Which connections a same-host companion may serve.
enum Eligibility {
    /// Whether both ends of a connection are on this host: loopback, the same address twice, or two of the host's own.
    static func isOnThisHost(local: SocketAddress, peer: SocketAddress) -> Bool {
        peer.isLoopback || local.sameHost(as: peer) || isOwn(peer)
    }

    /// Whether `address` is one of this host's: the kernel binds a socket to nothing else.
    private static func isOwn(_ address: SocketAddress) -> Bool {
        let fd = sys_socket(address.isIPv4 ? AF_INET : AF_INET6, CInt(SOCK_DGRAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        guard fd >= 0 else { return false }
        defer { _ = sys_close(CInt(fd)) }
        var any = address
        any.port = 0
        return any.withSocketAddress { sys_bind(CInt(fd), $0, $1) } == 0
    }
}
