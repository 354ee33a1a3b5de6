import CLibc
import Libc

/// What the kernel says that TCP has carried (TCP_INFO, linux/tcp.h): the word that our own counts must agree with before a path changes.
extension UnsafeMutablePointer where Pointee == Session {
    private var tcpInfo: (info: san_tcp_info, length: Int)? {
        var info = san_tcp_info()
        var length = socklen_t(MemoryLayout<san_tcp_info>.size)
        guard sys_getsockopt(descriptor, CInt(IPPROTO_TCP), TCP_INFO, &info, &length) == 0 else { return nil }
        return (info, Int(length))
    }

    /// Bytes that all processes have put on this TCP connection.
    func kernelBytesSent() -> UInt64? {
        guard let (info, length) = tcpInfo, length >= MemoryLayout<san_tcp_info>.size else { return nil }
        return info.bytes_sent &- info.bytes_retrans &+ UInt64(info.notsent_bytes)
    }

    /// Bytes that all processes have taken from this TCP connection; nil while it is moving.
    func kernelBytesReceived() -> UInt64? {
        for _ in 0..<3 {
            guard let before = bytesArrived() else { return nil }
            var queued: CInt = 0
            guard sys_ioctl_int(descriptor, libc_siocinq(), &queued) == 0 else { return nil }
            if queued == 0 || bytesArrived() == before { return before &- UInt64(UInt32(bitPattern: queued)) }
        }
        return nil
    }

    /// Bytes that have come in, taken or not.
    func bytesArrived() -> UInt64? {
        guard let (info, length) = tcpInfo, length >= 136 else { return nil }
        return info.bytes_received
    }

    /// The TCP state of the socket, 0 when it has none.
    var kernelState: CInt { tcpInfo.map { CInt($0.info.state) } ?? 0 }

    /// Whether the peer's end of the TCP connection is open, as far as TCP knows.
    var peerIsOpen: Bool {
        let state = kernelState
        return state == CInt(TCP_ESTABLISHED) || state == CInt(TCP_FIN_WAIT1) || state == CInt(TCP_FIN_WAIT2)
    }
}
