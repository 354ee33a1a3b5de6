import CLibc
import CProvider
import Libc

/// Who owns the other end of a TCP connection of this host, by the kernel's word (sock_diag(7)).
enum PeerCheck {
    /// Whether the process at the other end of `companion` may speak for the TCP socket that `tuple` names (its local end
    /// first): it runs as the socket's owner, or as root.
    static func mayActFor(_ tuple: ConnectionTuple, companion: san_socket, of provider: ProviderRef)
        -> Bool
    {
        var peer = san_peer(pid: 0, uid: uid_t.max)
        let result = provider.peer(companion, &peer)
        // From another host no user speaks: the provider has checked that the address is the connection's.
        if result == -EOPNOTSUPP { return true }
        guard result == 0, peer.uid != uid_t.max else { return false }
        if peer.uid == 0 { return true }
        guard let owner = owner(of: tuple) else { return false }
        return owner == peer.uid
    }

    /// The uid of the socket whose local and remote ends are as in `tuple`; nil when there is none.
    static func owner(of tuple: ConnectionTuple) -> uid_t? {
        // A v4-mapped connection is listed under the family of its socket: ask for both.
        if tuple.local.isIPv4, let found = ask(tuple, family: UInt8(AF_INET)) { return found }
        return ask(tuple, family: UInt8(AF_INET6))
    }

    private struct Request {
        var header = nlmsghdr()
        var body = inet_diag_req_v2()
    }

    private static func ask(_ tuple: ConnectionTuple, family: UInt8) -> uid_t? {
        let fd = sys_socket(AF_NETLINK, CInt(SOCK_RAW.rawValue | SOCK_CLOEXEC.rawValue), NETLINK_SOCK_DIAG)
        guard fd >= 0 else { return nil }
        defer { _ = sys_close(CInt(fd)) }
        var request = Request()
        request.header.nlmsg_len = UInt32(MemoryLayout<Request>.size)
        request.header.nlmsg_type = UInt16(SOCK_DIAG_BY_FAMILY)
        request.header.nlmsg_flags = UInt16(NLM_F_REQUEST)
        request.body.sdiag_family = family
        request.body.sdiag_protocol = UInt8(IPPROTO_TCP)
        request.body.idiag_states = UInt32.max
        request.body.id.idiag_sport = tuple.local.port.bigEndian
        request.body.id.idiag_dport = tuple.peer.port.bigEndian
        request.body.id.idiag_cookie = (UInt32.max, UInt32.max)
        withUnsafeMutableBytes(of: &request.body.id.idiag_src) { put(tuple.local, family, $0) }
        withUnsafeMutableBytes(of: &request.body.id.idiag_dst) { put(tuple.peer, family, $0) }
        guard sys_send(CInt(fd), &request, MemoryLayout<Request>.size, 0) > 0 else { return nil }
        return withUnsafeTemporaryAllocation(byteCount: 1024, alignment: 8) { reply -> uid_t? in
            let count = sys_recv(CInt(fd), reply.baseAddress, 1024, CInt(MSG_DONTWAIT))
            guard count >= MemoryLayout<nlmsghdr>.size + MemoryLayout<inet_diag_msg>.size else { return nil }
            guard reply.load(as: nlmsghdr.self).nlmsg_type == UInt16(SOCK_DIAG_BY_FAMILY) else { return nil }
            return reply.load(fromByteOffset: MemoryLayout<nlmsghdr>.size, as: inet_diag_msg.self).idiag_uid
        }
    }

    private static func put(_ address: SocketAddress, _ family: UInt8, _ bytes: UnsafeMutableRawBufferPointer) {
        if family == UInt8(AF_INET) {
            bytes.storeBytes(of: address.ipv4.bigEndian, as: UInt32.self)
        } else {
            bytes.storeBytes(of: address.high, as: UInt64.self)
            bytes.storeBytes(of: address.low, toByteOffset: 8, as: UInt64.self)
        }
    }
}
