"""Reading what fault_provider.c has recorded of the calls that it got."""


class Call:
    def __init__(self, line):
        words = line.split(" ")
        self.pid, self.time, self.entry, self.socket = int(words[0]), int(words[1]), words[2], words[3]
        self.text = " ".join(words[4:])
        self.answer = int(self.text.rpartition("= ")[2]) if "= " in self.text else None

    def __repr__(self):
        return "%d %s %s %s" % (self.time, self.entry, self.socket, self.text)


class Trace(list):
    def __init__(self, path):
        try:
            with open(path) as file:
                super().__init__(Call(line.rstrip("\n")) for line in file)
        except FileNotFoundError:
            super().__init__()

    def of(self, entry):
        return [call for call in self if call.entry == entry]

    def lives(self):
        """The calls on each socket from its creation to its close, in the order of creation."""
        lives, open_now = [], {}
        for call in self:
            if call.entry == "socket" and call.answer == 0:
                open_now[call.socket] = [call]
                lives.append(open_now[call.socket])
            elif call.socket in open_now:
                open_now[call.socket].append(call)
                if call.entry == "close":
                    del open_now[call.socket]
        return lives

    def life_with(self, entry):
        """The life of the first socket that saw `entry`."""
        return next(life for life in self.lives() if any(call.entry == entry for call in life))
