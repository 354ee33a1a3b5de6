import Libc

/// The negotiation messages of the session protocol, docs/protocol.md. Fixed size, little-endian; every field is checked when
/// read, because the peer is not trusted.
public struct Message: Equatable {
    public enum Kind: UInt8 {
        /// Client to broker: I hold this TCP connection, here is the memory you may write.
        case proposal = 1
        /// Worker to broker: I hold the accepted end of this connection.
        case claim = 2
        /// Broker to worker: here is the client's companion; its proposal follows in these fields.
        case grant = 3
        /// Server to client: I hold the other end, here is the memory you may write.
        case acceptance = 4
    }

    public static let size = 144
    static let magic: UInt32 = 0x5357_5301
    public static let version: UInt8 = 1

    public var kind: Kind
    /// The connection as the sender of the proposal names it; in a claim, as the claimant does.
    public var tuple: ConnectionTuple
    /// Random; both ends of a session share it (design 8).
    public var nonce: (UInt64, UInt64)
    /// Bytes of ring in the sender's exposed memory; a power of two. 0 in a claim.
    public var ring: UInt64
    /// The sender's memory descriptor, opaque to the switch.
    public var descriptor: (UInt64, UInt64, UInt64, UInt64)
    public var descriptorLength: UInt8

    public init(kind: Kind, tuple: ConnectionTuple) {
        self.kind = kind
        self.tuple = tuple
        nonce = (0, 0)
        ring = 0
        descriptor = (0, 0, 0, 0)
        descriptorLength = 0
    }

    public static func == (a: Message, b: Message) -> Bool {
        a.kind == b.kind && a.tuple == b.tuple && a.nonce == b.nonce && a.ring == b.ring && a.descriptor == b.descriptor
            && a.descriptorLength == b.descriptorLength
    }

    /// Reads one message; nil when it is malformed in any way.
    public init?(_ bytes: UnsafeRawBufferPointer) {
        guard bytes.count == Self.size,
            UInt32(littleEndian: bytes.loadUnaligned(as: UInt32.self)) == Self.magic,
            bytes[4] == Self.version, let kind = Kind(rawValue: bytes[5]), bytes[6] <= 32
        else { return nil }
        func word(_ offset: Int) -> UInt64 {
            UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self))
        }
        func port(_ offset: Int) -> UInt16 {
            UInt16(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt16.self))
        }
        self.kind = kind
        descriptorLength = bytes[6]
        tuple = ConnectionTuple(
            local: SocketAddress(high: word(16), low: word(24), port: port(8)),
            peer: SocketAddress(high: word(32), low: word(40), port: port(10)))
        nonce = (word(48), word(56))
        ring = word(64)
        descriptor = (word(72), word(80), word(88), word(96))
        let isRing = ring >= 4096 && ring <= Limits.maximumRing && ring & (ring &- 1) == 0
        guard kind == .claim ? ring == 0 : isRing else { return nil }
    }

    /// Writes the message; `bytes` holds at least `size`.
    public func encode(into bytes: UnsafeMutableRawBufferPointer) {
        guard bytes.count >= Self.size else { return }
        func put(_ value: UInt64, _ offset: Int) {
            bytes.storeBytes(of: value.littleEndian, toByteOffset: offset, as: UInt64.self)
        }
        for i in 0..<Self.size { bytes[i] = 0 }
        bytes.storeBytes(of: Self.magic.littleEndian, as: UInt32.self)
        bytes[4] = Self.version
        bytes[5] = kind.rawValue
        bytes[6] = descriptorLength
        bytes.storeBytes(of: tuple.local.port.littleEndian, toByteOffset: 8, as: UInt16.self)
        bytes.storeBytes(of: tuple.peer.port.littleEndian, toByteOffset: 10, as: UInt16.self)
        put(tuple.local.high, 16)
        put(tuple.local.low, 24)
        put(tuple.peer.high, 32)
        put(tuple.peer.low, 40)
        put(nonce.0, 48)
        put(nonce.1, 56)
        put(ring, 64)
        put(descriptor.0, 72)
        put(descriptor.1, 80)
        put(descriptor.2, 88)
        put(descriptor.3, 96)
    }
}
