import Libc

/// What a program does with a connection's first end.
public enum Role: UInt32 {
    case connect = 1
    case listen = 2
}

/// One line `allow ...` or `deny ...`; the first that matches decides.
public struct Rule {
    public var isAllowed: Bool
    /// Nil: both.
    public var role: Role?
    /// The leading `bits` of an address, as SocketAddress has it (IPv4 in its mapped form); 0: every address.
    public var network = SocketAddress(high: 0, low: 0, port: 0)
    public var bits: UInt32 = 0
    public var firstPort: UInt16 = 0
    public var lastPort: UInt16 = .max

    public init(isAllowed: Bool) { self.isAllowed = isAllowed }

    /// Whether it speaks of `address`: the server's for connect, the own one for listen.
    public func matches(_ role: Role, _ address: SocketAddress) -> Bool {
        if let only = self.role, only != role { return false }
        guard address.port >= firstPort, address.port <= lastPort else { return false }
        let high = Self.mask(bits)
        let low = Self.mask(bits > 64 ? bits &- 64 : 0)
        let (a, b) = (UInt64(bigEndian: address.high), UInt64(bigEndian: address.low))
        let (c, d) = (UInt64(bigEndian: network.high), UInt64(bigEndian: network.low))
        return (a ^ c) & high == 0 && (b ^ d) & low == 0
    }

    /// The leading `bits` of 64.
    private static func mask(_ bits: UInt32) -> UInt64 {
        bits == 0 ? 0 : bits >= 64 ? .max : ~(UInt64.max >> UInt64(bits))
    }
}

/// The program that a rule is for: `*` stands for any bytes, `?` for one. With a slash the whole path of the executable
/// counts, else its last part or the name the kernel has for the process (a script's own name, cut to 15 bytes).
public enum Pattern {
    public static func matches(
        _ pattern: UnsafeRawBufferPointer, path: UnsafeRawBufferPointer, name: UnsafeRawBufferPointer
    ) -> Bool {
        if pattern.contains(0x2f) { return glob(pattern, path) }
        var start = 0
        for index in 0..<path.count where path[index] == 0x2f { start = index &+ 1 }
        return glob(pattern, UnsafeRawBufferPointer(rebasing: path[start...])) || glob(pattern, name)
    }

    /// Without recursion: after a mismatch, the last star takes one byte more.
    private static func glob(_ pattern: UnsafeRawBufferPointer, _ text: UnsafeRawBufferPointer) -> Bool {
        var (p, t, star, mark) = (0, 0, -1, 0)
        while t < text.count {
            if p < pattern.count, pattern[p] == 0x2a {
                (star, mark) = (p, t)
                p &+= 1
            } else if p < pattern.count, pattern[p] == 0x3f || pattern[p] == text[t] {
                p &+= 1
                t &+= 1
            } else if star >= 0 {
                mark &+= 1
                (p, t) = (star &+ 1, mark)
            } else {
                return false
            }
        }
        while p < pattern.count, pattern[p] == 0x2a { p &+= 1 }
        return p == pattern.count
    }
}
