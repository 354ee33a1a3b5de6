import CLibc
import Libc

/// The kernel's word on who owns a TCP socket (sock_diag(7)); what the library asks about its peers.
enum SocketOwner {
    enum Answer {
        case found(uid_t)
        case failed(CInt)
    }

    private struct Request {
        var header = nlmsghdr()
        var body = inet_diag_req_v2()
    }

    /// The owner of the IPv4 socket whose local end is `tuple.local`.
    static func find(_ tuple: ConnectionTuple) -> Answer {
        let fd = sys_socket(AF_NETLINK, CInt(SOCK_RAW.rawValue | SOCK_CLOEXEC.rawValue), NETLINK_SOCK_DIAG)
        guard fd >= 0 else { return .failed(CInt(-fd)) }
        defer { _ = sys_close(CInt(fd)) }
        var request = Request()
        request.header.nlmsg_len = UInt32(MemoryLayout<Request>.size)
        request.header.nlmsg_type = UInt16(SOCK_DIAG_BY_FAMILY)
        request.header.nlmsg_flags = UInt16(NLM_F_REQUEST)
        request.body.sdiag_family = UInt8(AF_INET)
        request.body.sdiag_protocol = UInt8(IPPROTO_TCP)
        request.body.idiag_states = UInt32.max
        request.body.id.idiag_sport = tuple.local.port.bigEndian
        request.body.id.idiag_dport = tuple.peer.port.bigEndian
        request.body.id.idiag_src.0 = tuple.local.ipv4.bigEndian
        request.body.id.idiag_dst.0 = tuple.peer.ipv4.bigEndian
        request.body.id.idiag_cookie = (UInt32.max, UInt32.max)
        let sent = sys_send(CInt(fd), &request, MemoryLayout<Request>.size, 0)
        guard sent > 0 else { return .failed(CInt(-sent)) }
        return withUnsafeTemporaryAllocation(byteCount: 1024, alignment: 8) { reply in
            let count = sys_recv(CInt(fd), reply.baseAddress, reply.count, CInt(MSG_DONTWAIT))
            guard count >= MemoryLayout<nlmsghdr>.size + 4 else { return .failed(count < 0 ? CInt(-count) : EPROTO) }
            // NLMSG_ERROR carries a negative errno.
            guard reply.load(as: nlmsghdr.self).nlmsg_type == UInt16(SOCK_DIAG_BY_FAMILY) else {
                return .failed(-reply.load(fromByteOffset: MemoryLayout<nlmsghdr>.size, as: CInt.self))
            }
            guard count >= MemoryLayout<nlmsghdr>.size + MemoryLayout<inet_diag_msg>.size else {
                return .failed(EPROTO)
            }
            return .found(reply.load(fromByteOffset: MemoryLayout<nlmsghdr>.size, as: inet_diag_msg.self).idiag_uid)
        }
    }
}

/// A TCP connection of this program to itself over 127.0.0.1.
final class LoopbackPair {
    private let listener: CInt
    private let client: CInt
    /// The client's end first.
    let tuple: ConnectionTuple

    init?() {
        let kind = CInt(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue)
        let (listener, client) = (CInt(sys_socket(AF_INET, kind, 0)), CInt(sys_socket(AF_INET, kind, 0)))
        let any = SocketAddress(ipv4: 0x7f00_0001, port: 0)
        guard any.withSocketAddress({ sys_bind(listener, $0, $1) }) == 0, sys_listen(listener, 1) == 0,
            let address = SocketAddress.local(of: listener),
            address.withSocketAddress({ sys_connect(client, $0, $1) }) == 0, let local = SocketAddress.local(of: client)
        else {
            _ = (sys_close(listener), sys_close(client))
            return nil
        }
        (self.listener, self.client) = (listener, client)
        tuple = ConnectionTuple(local: local, peer: address)
    }

    deinit { _ = (sys_close(listener), sys_close(client)) }
}
