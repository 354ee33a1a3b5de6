import CLibc
import Libc

/// Which connections a companion may serve.
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

    private struct Request {
        var header = nlmsghdr()
        var body = rtmsg()
        /// RTA_DST, RTA_SRC: header and the longest address each.
        var attributes: (UInt64, UInt64, UInt64, UInt64, UInt64, UInt64) = (0, 0, 0, 0, 0, 0)
    }

    /// Whether packets from `local` reach `peer` without a router, by the kernel's routing table: routed traffic stays on TCP.
    static func isOnLink(local: SocketAddress, peer: SocketAddress) -> Bool {
        let fd = sys_socket(AF_NETLINK, CInt(SOCK_RAW.rawValue | SOCK_CLOEXEC.rawValue), NETLINK_ROUTE)
        guard fd >= 0 else { return false }
        defer { _ = sys_close(CInt(fd)) }
        var request = Request()
        let size = peer.isIPv4 ? 4 : 16
        let head = MemoryLayout<nlmsghdr>.size + MemoryLayout<rtmsg>.size
        let length = head + 2 * (4 + size)
        request.header.nlmsg_len = UInt32(length)
        request.header.nlmsg_type = UInt16(RTM_GETROUTE)
        request.header.nlmsg_flags = UInt16(NLM_F_REQUEST)
        request.body.rtm_family = UInt8(peer.isIPv4 ? AF_INET : AF_INET6)
        request.body.rtm_dst_len = UInt8(size * 8)
        request.body.rtm_src_len = UInt8(size * 8)
        withUnsafeMutableBytes(of: &request) {
            put(peer, RTA_DST, size, UnsafeMutableRawBufferPointer(rebasing: $0[head...]))
            put(local, RTA_SRC, size, UnsafeMutableRawBufferPointer(rebasing: $0[(head + 4 + size)...]))
        }
        guard sys_send(CInt(fd), &request, length, 0) > 0 else { return false }
        return withUnsafeTemporaryAllocation(byteCount: 4096, alignment: 8) { reply in
            let count = sys_recv(CInt(fd), reply.baseAddress, reply.count, CInt(MSG_DONTWAIT))
            return count >= head && isDirect(UnsafeRawBufferPointer(rebasing: reply[0..<count]), head)
        }
    }

    private static func put(
        _ address: SocketAddress, _ kind: rtattr_type_t, _ size: Int, _ bytes: UnsafeMutableRawBufferPointer
    ) {
        bytes.storeBytes(of: UInt16(4 + size), as: UInt16.self)
        bytes.storeBytes(of: UInt16(kind.rawValue), toByteOffset: 2, as: UInt16.self)
        if size == 4 {
            bytes.storeBytes(of: address.ipv4.bigEndian, toByteOffset: 4, as: UInt32.self)
        } else {
            bytes.storeBytes(of: address.high, toByteOffset: 4, as: UInt64.self)
            bytes.storeBytes(of: address.low, toByteOffset: 12, as: UInt64.self)
        }
    }

    /// Whether the kernel's answer is a unicast or local route with no gateway.
    private static func isDirect(_ reply: UnsafeRawBufferPointer, _ head: Int) -> Bool {
        guard reply.load(fromByteOffset: 4, as: UInt16.self) == UInt16(RTM_NEWROUTE) else { return false }
        let type = Int(reply.load(fromByteOffset: MemoryLayout<nlmsghdr>.size, as: rtmsg.self).rtm_type)
        guard type == Int(RTN_UNICAST) || type == Int(RTN_LOCAL) else { return false }
        var at = head
        while at + 4 <= reply.count {
            let length = Int(reply.load(fromByteOffset: at, as: UInt16.self))
            let kind = UInt32(reply.load(fromByteOffset: at + 2, as: UInt16.self))
            if kind == RTA_GATEWAY.rawValue || kind == RTA_VIA.rawValue || length < 4 { return false }
            at += (length + 3) & ~3
        }
        return true
    }
}
