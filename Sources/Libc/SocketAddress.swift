import CLibc

/// One end of a TCP connection: an IP address and a port, IPv4 held as its IPv4-mapped IPv6 form so that the two
/// families compare equal.
public struct SocketAddress: Equatable, Sendable {
    /// The 16 address bytes in network order, as two host words of the same bytes.
    public var high: UInt64
    public var low: UInt64
    /// Host order.
    public var port: UInt16

    public init(high: UInt64, low: UInt64, port: UInt16) {
        self.high = high
        self.low = low
        self.port = port
    }

    /// From a sockaddr; nil when it is neither IPv4 nor IPv6 or is cut short.
    public init?(_ raw: UnsafeRawPointer, length: Int) {
        guard length >= 8 else { return nil }
        let family = raw.loadUnaligned(as: UInt16.self)
        let port = UInt16(bigEndian: raw.loadUnaligned(fromByteOffset: 2, as: UInt16.self))
        if family == UInt16(AF_INET) {
            self.init(ipv4: UInt32(bigEndian: raw.loadUnaligned(fromByteOffset: 4, as: UInt32.self)), port: port)
        } else if family == UInt16(AF_INET6), length >= 24 {
            self.init(
                high: raw.loadUnaligned(fromByteOffset: 8, as: UInt64.self),
                low: raw.loadUnaligned(fromByteOffset: 16, as: UInt64.self), port: port)
        } else {
            return nil
        }
    }

    /// `address` in host order.
    public init(ipv4 address: UInt32, port: UInt16) {
        self.init(high: 0, low: (0x0000_ffff_0000_0000 | UInt64(address)).bigEndian, port: port)
    }

    public var isIPv4: Bool { high == 0 && UInt64(bigEndian: low) >> 32 == 0xffff }
    /// Host order; meaningful when `isIPv4`.
    public var ipv4: UInt32 { UInt32(truncatingIfNeeded: UInt64(bigEndian: low)) }
    public var isWildcard: Bool { (high == 0 && low == 0) || (isIPv4 && ipv4 == 0) }
    /// 127.0.0.0/8 or ::1.
    public var isLoopback: Bool { isIPv4 ? ipv4 >> 24 == 127 : high == 0 && UInt64(bigEndian: low) == 1 }
    public func sameHost(as other: SocketAddress) -> Bool { high == other.high && low == other.low }

    /// The bound address of `fd`; nil when it is no IP socket.
    public static func local(of fd: CInt) -> SocketAddress? {
        var storage = sockaddr_in6()
        var length = socklen_t(MemoryLayout<sockaddr_in6>.size)
        guard sys_getsockname(fd, &storage, &length) == 0 else { return nil }
        return withUnsafeBytes(of: &storage) { SocketAddress($0.baseAddress!, length: Int(length)) }
    }

    /// The address of the peer of `fd`; nil when it has none.
    public static func peer(of fd: CInt) -> SocketAddress? {
        var storage = sockaddr_in6()
        var length = socklen_t(MemoryLayout<sockaddr_in6>.size)
        guard sys_getpeername(fd, &storage, &length) == 0 else { return nil }
        return withUnsafeBytes(of: &storage) { SocketAddress($0.baseAddress!, length: Int(length)) }
    }

    /// As a sockaddr of the family it belongs to.
    public func withSocketAddress<R>(_ body: (UnsafeRawPointer, socklen_t) -> R) -> R {
        if isIPv4 {
            var four = sockaddr_in()
            four.sin_family = sa_family_t(AF_INET)
            four.sin_port = port.bigEndian
            four.sin_addr.s_addr = ipv4.bigEndian
            return withUnsafeBytes(of: &four) { body($0.baseAddress!, socklen_t($0.count)) }
        }
        var six = sockaddr_in6()
        six.sin6_family = sa_family_t(AF_INET6)
        six.sin6_port = port.bigEndian
        let (high, low) = (high, low)
        withUnsafeMutableBytes(of: &six.sin6_addr) {
            $0.storeBytes(of: high, as: UInt64.self)
            $0.storeBytes(of: low, toByteOffset: 8, as: UInt64.self)
        }
        return withUnsafeBytes(of: &six) { body($0.baseAddress!, socklen_t($0.count)) }
    }
}

/// A TCP connection as one of its ends names it.
public struct ConnectionTuple: Equatable, Sendable {
    public var local: SocketAddress
    public var peer: SocketAddress

    public init(local: SocketAddress, peer: SocketAddress) {
        self.local = local
        self.peer = peer
    }

    public var reversed: ConnectionTuple { ConnectionTuple(local: peer, peer: local) }
}
