import Libc

extension SocketAddress {
    /// An IPv4 or IPv6 address as text, without a port.
    public init?(text: UnsafeRawBufferPointer) {
        if text.contains(0x3a) {
            guard let words = Self.ipv6(text) else { return nil }
            self.init(high: words.0.bigEndian, low: words.1.bigEndian, port: 0)
        } else {
            guard let address = Self.ipv4(text) else { return nil }
            self.init(ipv4: address, port: 0)
        }
    }

    private static func ipv4(_ text: UnsafeRawBufferPointer) -> UInt32? {
        var address: UInt32 = 0
        var rest: UnsafeRawBufferPointer? = text
        for _ in 0..<4 {
            guard let part = rest else { return nil }
            let (byte, more) = part.split(at: 0x2e)
            guard byte.count <= 3, let value = byte.decimal, value < 256 else { return nil }
            address = address << 8 | UInt32(truncatingIfNeeded: value)
            rest = more
        }
        return rest == nil ? address : nil
    }

    /// Eight groups of hexadecimal digits, with at most one `::` for groups of zero; host order.
    private static func ipv6(_ text: UnsafeRawBufferPointer) -> (UInt64, UInt64)? {
        // Groups before the gap are shifted in from the right, those after it counted.
        var before: (UInt64, UInt64) = (0, 0)
        var after: (UInt64, UInt64) = (0, 0)
        var (groups, groupsAfter, hasGap, i) = (0, 0, false, 0)
        while i < text.count {
            if text[i] == 0x3a {
                if i &+ 1 < text.count, text[i &+ 1] == 0x3a {
                    guard !hasGap else { return nil }
                    hasGap = true
                    i &+= 2
                    if i == text.count { break }
                } else {
                    // Between two groups only.
                    guard i > 0, text[i &- 1] != 0x3a, i &+ 1 < text.count else { return nil }
                    i &+= 1
                }
            }
            var (value, digits): (UInt64, Int) = (0, 0)
            while i < text.count, text[i] != 0x3a {
                guard digits < 4, let digit = hexadecimal(text[i]) else { return nil }
                value = value << 4 | digit
                digits &+= 1
                i &+= 1
            }
            guard digits > 0, groups &+ groupsAfter < 8 else { return nil }
            if hasGap {
                after = append(after, value)
                groupsAfter &+= 1
            } else {
                before = append(before, value)
                groups &+= 1
            }
        }
        guard hasGap ? groups &+ groupsAfter < 8 : groups == 8 else { return nil }
        for _ in groups..<8 { before = append(before, 0) }
        return (before.0 | after.0, before.1 | after.1)
    }

    private static func append(_ words: (UInt64, UInt64), _ group: UInt64) -> (UInt64, UInt64) {
        (words.0 << 16 | words.1 >> 48, words.1 << 16 | group)
    }

    private static func hexadecimal(_ byte: UInt8) -> UInt64? {
        switch byte {
        case 0x30...0x39: UInt64(byte &- 0x30)
        case 0x41...0x46: UInt64(byte &- 0x37)
        case 0x61...0x66: UInt64(byte &- 0x57)
        default: nil
        }
    }
}
