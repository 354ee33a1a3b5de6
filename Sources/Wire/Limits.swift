/// Every limit and time-out of the session protocol.
public enum Limits {
    /// A negotiation message, bytes (wsd-requirements 122).
    public static let message = 256
    /// Each direction has two rings, bytes: a small one that an idle connection lives in, and a large one, in use from the first
    /// send that finds the small one full until the connection is idle again.
    public static let smallRing: UInt64 = 4096
    public static let maximumRing: UInt64 = 1 << 20
    /// Bytes before the rings in exposed memory: the cursors that the peer writes.
    public static let inboxHeader = 4096
    /// Exposed memory with a large ring of `ring` bytes.
    public static func exposed(_ ring: UInt64) -> Int { inboxHeader + Int(smallRing) + Int(truncatingIfNeeded: ring) }
    /// The most that one call gives to TCP while the connection may still switch over: a write of many megabytes must not travel on
    /// TCP as a whole because it began there.
    public static let piece = 128 << 10
    /// How long a server that refused the rendezvous is taken to be unaware, nanoseconds.
    public static let unawareNanoseconds: UInt64 = 500_000_000
    /// How long a receiver waits for the answer when it asks its sender to come back to TCP, nanoseconds.
    public static let answerNanoseconds: UInt64 = 1_000_000_000
    /// Proposals and claims that wait for each other at one broker.
    public static let waitingAtBroker = 4096
    /// How long they wait, nanoseconds.
    public static let waitingNanoseconds: UInt64 = 10_000_000_000
}
