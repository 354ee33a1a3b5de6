import CLibc
import Testing

@testable import Switch

extension SwitchSuites {
    @Suite struct EntryPoolTests {
        /// A program's data is a descriptor with anything above it, as CPython's epoll leaves it: never taken for a tag of ours.
        @Test func owns_noDescriptorUnderStrayBits() throws {
            let pair = try SessionPair()
            defer { pair.close() }
            let set = CInt(sys_epoll_create1(0))
            defer { _ = switch_close(set) }
            var event = epoll_event()
            event.events = UInt32(EPOLLIN.rawValue)
            #expect(switch_epoll_ctl(set, EPOLL_CTL_ADD, pair.server, &event) == 0)
            let upper = EntryPool.data(EventTag.kick) & ~0xffff_ffff
            #expect(EntryPool.owns(EntryPool.data(EventTag.kick)))
            for descriptor in [0, 1, 5, 1023, 65535, 1 << 20] as [UInt64] {
                #expect(!EntryPool.owns(upper | descriptor))
            }
        }
    }
}
