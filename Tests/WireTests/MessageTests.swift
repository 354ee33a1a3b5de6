import Libc
import Testing
import Wire

@Suite struct MessageTests {
    static let tuple = ConnectionTuple(
        local: SocketAddress(ipv4: 0x7f00_0001, port: 40000), peer: SocketAddress(ipv4: 0x7f00_0002, port: 80))

    static func proposal() -> Message {
        var message = Message(kind: .proposal, tuple: tuple)
        message.nonce = (0x0123_4567_89ab_cdef, .max)
        message.ring = Limits.maximumRing
        message.descriptor = (4096, 1, 2, 3)
        message.descriptorLength = 8
        return message
    }

    static func bytes(of message: Message) -> [UInt8] {
        var bytes = [UInt8](repeating: 0xee, count: Message.size)
        bytes.withUnsafeMutableBytes { message.encode(into: $0) }
        return bytes
    }

    static func decode(_ bytes: [UInt8]) -> Message? { bytes.withUnsafeBytes { Message($0) } }

    @Test func size_fitsTheNegotiationLimit() { #expect(Message.size <= Limits.message) }

    @Test func decode_returnsWhatWasEncoded() {
        #expect(Self.decode(Self.bytes(of: Self.proposal())) == Self.proposal())
    }

    @Test func decode_claimHasNoRing() {
        #expect(Self.decode(Self.bytes(of: Message(kind: .claim, tuple: Self.tuple))) != nil)
        var bytes = Self.bytes(of: Message(kind: .claim, tuple: Self.tuple))
        bytes[5] = Message.Kind.proposal.rawValue
        #expect(Self.decode(bytes) == nil)
    }

    @Test(arguments: [0, 1, 143, 145]) func decode_refusesOtherLengths(length: Int) {
        var bytes = Self.bytes(of: Self.proposal()) + [0]
        bytes.removeLast(bytes.count - length)
        #expect(Self.decode(bytes) == nil)
    }

    @Test(arguments: [0, 4, 5]) func decode_refusesForeignHeads(offset: Int) {
        var bytes = Self.bytes(of: Self.proposal())
        bytes[offset] ^= 0x40
        #expect(Self.decode(bytes) == nil)
    }

    @Test(arguments: [0, 1, 4095, 4097, 12288, Limits.maximumRing * 2, .max]) func decode_refusesImpossibleRings(
        ring: UInt64
    ) {
        var message = Self.proposal()
        message.ring = ring
        #expect(Self.decode(Self.bytes(of: message)) == nil)
    }

    /// Whatever the bytes, decoding ends, and what it accepts keeps the promises of the type.
    @Test func decode_survivesRandomBytes() {
        var generator = SplitMix(state: 42)
        var accepted = 0
        for _ in 0..<20_000 {
            var bytes = Self.bytes(of: Self.proposal())
            for _ in 0..<Int(generator.next() % 4) {
                bytes[Int(generator.next() % UInt64(bytes.count))] = UInt8(truncatingIfNeeded: generator.next())
            }
            guard let message = Self.decode(bytes) else { continue }
            accepted += 1
            #expect(
                message.ring <= Limits.maximumRing && message.ring.nonzeroBitCount <= 1
                    && message.descriptorLength <= 32)
        }
        #expect(accepted > 1000)
    }
}

struct SplitMix: RandomNumberGenerator {
    var state: UInt64
    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var z = state
        z = (z ^ (z >> 30)) &* 0xbf58_476d_1ce4_e5b9
        z = (z ^ (z >> 27)) &* 0x94d0_49bb_1331_11eb
        return z ^ (z >> 31)
    }
}

@Suite struct SocketAddressTests {
    @Test func equality_joinsMappedAndPlainIPv4() {
        let four = SocketAddress(ipv4: 0x7f00_0001, port: 1)
        let round = four.withSocketAddress { SocketAddress($0, length: Int($1)) }
        #expect(round == four && four.isIPv4 && four.isLoopback && four.ipv4 == 0x7f00_0001)
    }

    @Test func loopback_knowsBothFamilies() {
        #expect(SocketAddress(high: 0, low: UInt64(1).bigEndian, port: 0).isLoopback)
        #expect(SocketAddress(ipv4: 0x7fff_fffe, port: 0).isLoopback)
        #expect(!SocketAddress(ipv4: 0x0a00_0001, port: 0).isLoopback)
        #expect(SocketAddress(ipv4: 0, port: 9).isWildcard && SocketAddress(high: 0, low: 0, port: 9).isWildcard)
    }
}
