/// Why a connection is on, or returned to, the kernel path. One case per cause; shown by `sanswitch stat`, asserted in tests.
/// The raw values are part of the shared layout: append only.
public enum Reason: UInt32, CaseIterable {
    case none = 0
    /// Too few calls and bytes so far for a switch-over to pay.
    case shortConnection = 1
    case peerNotOnThisHost = 2
    /// Nothing listens at the rendezvous of the server's address.
    case peerUnaware = 3
    /// Proposed or claimed; the other end has not answered.
    case waitingForPeer = 4
    /// The process at the rendezvous does not own the other end of the connection.
    case peerNotOwner = 5
    case malformedMessage = 6
    /// Counted bytes and the kernel's differ: somebody moved bytes past the switch.
    case countMismatch = 7
    case descriptorsExhausted = 8
    case memoryExhausted = 9
    /// Several processes held the connection before it switched over.
    case sharedBeforeSwitch = 10
    /// A libc stream (fdopen, or descriptor 0 to 2) reads or writes it.
    case stdio = 11
    case urgentData = 12
    case exec = 13
    case companionEnded = 14
    case hostilePeer = 15
    case unsupportedOption = 16
    case connectionClosed = 17
    /// By a rule of the configuration.
    case ruledOut = 18
    case peerReturned = 19
    /// The provider failed a call that sets the companion up.
    case companionFailed = 24
    /// The provider's device, or its port, is gone.
    case deviceLost = 25
    /// The peer's companion cannot be reached, or does not answer in time, where TCP reaches it.
    case peerUnreachable = 26
    /// RLIMIT_MEMLOCK: a device needs memory that stays where it is.
    case lockedMemoryExhausted = 27
    /// The device has no queue pair left.
    case queuesExhausted = 28
    /// iWARP: the device's ports are TCP's own.
    case sharesTcpPorts = 29
    /// libibverbs or librdmacm is not installed.
    case noVerbsLibraries = 30

    /// One line for people.
    public var text: StaticString {
        switch self {
        case .none: "on the companion"
        case .shortConnection: "too short so far to pay"
        case .peerNotOnThisHost: "peer is not on this host"
        case .peerUnaware: "peer does not run under sanswitch"
        case .waitingForPeer: "waiting for the peer's answer"
        case .peerNotOwner: "rendezvous belongs to another user"
        case .malformedMessage: "peer sent a malformed message"
        case .countMismatch: "bytes moved past the switch"
        case .descriptorsExhausted: "no descriptor left (RLIMIT_NOFILE)"
        case .memoryExhausted: "no memory for the rings"
        case .sharedBeforeSwitch: "several processes held it"
        case .stdio: "used through stdio"
        case .urgentData: "urgent data (MSG_OOB)"
        case .exec: "passed to another program by exec"
        case .companionEnded: "companion ended"
        case .hostilePeer: "peer broke the protocol"
        case .unsupportedOption: "option that only TCP has"
        case .connectionClosed: "connection closed"
        case .ruledOut: "a rule of the configuration"
        case .peerReturned: "the peer returned to TCP"
        case .companionFailed: "the provider could not set the companion up"
        case .deviceLost: "no RDMA device with an active port"
        case .peerUnreachable: "peer's companion does not answer"
        case .lockedMemoryExhausted: "no memory may be locked (RLIMIT_MEMLOCK)"
        case .queuesExhausted: "no queue pair left on the device"
        case .sharesTcpPorts: "iWARP device shares the ports of TCP"
        case .noVerbsLibraries: "libibverbs or librdmacm is missing"
        }
    }
}
