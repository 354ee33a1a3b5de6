import CLibc

/// An errno value, as a typed error and as the outcome of a real call.
public struct Errno: Error, Equatable {
    public let code: CInt

    @inline(__always)
    public init(_ code: CInt) { self.code = code }

    /// From the negative result of a `sys_` call.
    @inline(__always)
    public init(result: Int) { code = CInt(truncatingIfNeeded: 0 &- result) }
}

/// The outcome of one attempt to move bytes.
public enum IOResult {
    case done(Int)
    case wouldBlock
    case failed(CInt)

    /// The return value of the libc call; the one place that writes errno.
    @inline(__always)
    public var posix: Int {
        switch self {
        case .done(let count): return count
        case .wouldBlock:
            libc_set_errno(EAGAIN)
            return -1
        case .failed(let code):
            libc_set_errno(code)
            return -1
        }
    }
}

/// Fails a call that returns int.
@inline(__always)
public func fail(_ code: CInt) -> CInt {
    libc_set_errno(code)
    return -1
}
