/// A place where a direction changes its path: a stream offset and the number of the interval that begins or ends there, in one word that
/// is written and read whole. 0 means none. Offsets are kept modulo 2^48; whoever reads one stands nearer to it than that.
struct Turn: Equatable {
    static let none = Turn(word: 0)

    let word: UInt64

    @inline(__always) init(word: UInt64) { self.word = word }
    @inline(__always) init(at offset: UInt64, epoch: UInt64) { word = offset << 16 | (epoch & 0xffff) }

    /// 1 to 65535; neighbours differ, and that is all that is asked of them.
    @inline(__always) var epoch: UInt64 { word & 0xffff }

    /// The offset, completed so that it lies as near to `reference` as possible.
    @inline(__always)
    func offset(near reference: UInt64) -> UInt64 {
        let distance = Int64(bitPattern: (word & ~0xffff) &- reference << 16) >> 16
        return reference &+ UInt64(bitPattern: distance)
    }

    /// The number after `epoch`.
    static func next(_ epoch: UInt64) -> UInt64 { epoch & 0xffff == 0xffff ? 1 : (epoch & 0xffff) &+ 1 }
}
