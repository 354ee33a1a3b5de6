import CLibc
import CProvider

/// The upcalls that a provider under examination gets: what the switch does, with a record of it.
enum ConformanceUpcalls {
    nonisolated(unsafe) static var contexts: [san_switch_socket: UnsafeMutableRawPointer] = [:]
    nonisolated(unsafe) static var placed: Set<CInt> = []
    /// Handles closed that were not open.
    nonisolated(unsafe) static var mistakes = 0
    nonisolated(unsafe) private static var last: san_switch_socket = 1000

    static var table: san_upcalls {
        san_upcalls(
            size: UInt64(MemoryLayout<san_upcalls>.size),
            create_socket_handle: { context, out in
                guard let context, let out else { return -EINVAL }
                ConformanceUpcalls.last += 1
                ConformanceUpcalls.contexts[ConformanceUpcalls.last] = context
                out.pointee = ConformanceUpcalls.last
                return 0
            },
            query_socket_handle_context: { ConformanceUpcalls.contexts[$0] },
            close_socket_handle: {
                if ConformanceUpcalls.contexts.removeValue(forKey: $0) == nil { ConformanceUpcalls.mistakes += 1 }
            },
            place_descriptor: { fd in
                let placed = CInt(sys_fcntl(fd, F_DUPFD_CLOEXEC, 500))
                guard placed >= 0 else { return placed }
                _ = sys_close(fd)
                ConformanceUpcalls.placed.insert(placed)
                return placed
            },
            release_descriptor: {
                ConformanceUpcalls.placed.remove($0)
            })
    }
}
