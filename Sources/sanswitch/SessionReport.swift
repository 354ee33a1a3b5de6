import Libc
import SessionState
import Synchronization

/// One direction of a session, as it was when read.
struct DirectionReport {
    let path: Path
    let bytes: UInt64
    let kernelBytes: UInt64
    let switchOver: UInt64?
    let switchBack: UInt64?
    let calls: UInt64
    let doorbells: UInt64
    let sleeps: UInt64
    /// How often it went over to the companion.
    let overs: UInt64

    init(_ state: borrowing DirectionState) {
        func offset(_ value: UInt64) -> UInt64? { value == DirectionState.noOffset ? nil : value }
        path = Path(rawValue: state.path.load(ordering: .relaxed)) ?? .kernel
        bytes = state.offset.load(ordering: .relaxed)
        // Read without the lock: the two counters may be one call apart.
        kernelBytes = min(state.kernelBytes.load(ordering: .relaxed), bytes)
        switchOver = offset(state.switchOver.load(ordering: .relaxed))
        switchBack = offset(state.switchBack.load(ordering: .relaxed))
        calls = state.calls.load(ordering: .relaxed)
        doorbells = state.doorbells.load(ordering: .relaxed)
        sleeps = state.sleeps.load(ordering: .relaxed)
        overs = state.intervals.load(ordering: .relaxed)
    }

    var companionBytes: UInt64 { bytes - kernelBytes }
    /// How often it came back.
    var backs: UInt64 { isOnTCP || overs == 0 ? overs : overs - 1 }
    var isOnTCP: Bool { path == .kernel || path == .returned || path == .asking }
}

/// One session of one process family.
struct SessionReport {
    /// The processes that hold it; the first one names it.
    let pids: [Int32]
    let program: String
    let isClient: Bool
    let local: SocketAddress
    let peer: SocketAddress
    let reason: Reason?
    let send: DirectionReport
    let receive: DirectionReport

    init(_ state: UnsafePointer<SessionState>, pids: [Int32]) {
        self.pids = pids
        program =
            readFile("/proc/\(pids[0])/comm", limit: 64).map {
                String(decoding: $0.prefix { $0 != 0x0a }, as: UTF8.self)
            } ?? "?"
        isClient = state.pointee.role.load(ordering: .relaxed) == 1
        let ports = state.pointee.ports.load(ordering: .relaxed)
        local = SocketAddress(
            high: state.pointee.localHigh.load(ordering: .relaxed),
            low: state.pointee.localLow.load(ordering: .relaxed),
            port: UInt16(truncatingIfNeeded: ports >> 16))
        peer = SocketAddress(
            high: state.pointee.peerHigh.load(ordering: .relaxed), low: state.pointee.peerLow.load(ordering: .relaxed),
            port: UInt16(truncatingIfNeeded: ports))
        reason = Reason(rawValue: state.pointee.reason.load(ordering: .relaxed))
        send = DirectionReport(state.pointee.send)
        receive = DirectionReport(state.pointee.receive)
    }

    var role: String { isClient ? "client" : "server" }
    /// The name that tests and scripts rely on; `unknown` from a library newer than this tool.
    var reasonName: String { reason.map { "\($0)" } ?? "unknown" }
    /// Of a direction that is on TCP: while the other one has switched over, nothing holds it back but having nothing to carry.
    var reasonOnTCP: String { reason == Reason.none ? "nothing sent since the companion is there" : reasonText }
    var reasonText: String { reason?.text.description ?? "a reason newer than this tool" }
}
