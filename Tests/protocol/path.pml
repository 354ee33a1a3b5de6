/* The path-change protocol of docs/protocol.md ("Changing the path", "Ends"), one direction, for spin.
 *
 * Byte number i of the stream has the value i, so what is delivered must count up from 0: `deliver` asserts it. Every wait is a
 * blocking statement and every program ends, so a lost wake-up or an answer that never comes is an invalid end state.
 *
 * One direction is enough: the other has words, offsets, locks and rings of its own. The two share the doorbell, which is why
 * the sender's end has another thread that takes doorbells (Other), and TCP's FIN, which ends one direction only.
 *
 * Bounds (runner): N bytes, RING bytes of ring, TCP bytes on the way in TCP, OVERS announcements, WISHES wishes, READERS threads.
 * Epochs are counted modulo 2: what holds then holds modulo 65536.
 * COPIED: each end sees copies of the other's words, any time later, in order. That is a provider with `push`, and it is also
 * what store buffers do to shared memory. CRASH_SENDER, CRASH_RECEIVER: that end is killed at any moment.
 * What follows BROKEN_ leaves out one rule; the runner requires each to fail. */

#define OFFSET(w) ((w) & 7)
#define EPOCH(w) ((w) >> 3)
#define WORD(offset, epoch) (((epoch) << 3) | (offset))
#define MAX(a, b) ((a) > (b) -> (a) : (b))

#define LOCK(l) atomic { !l -> l = true }
#define UNLOCK(l) l = false

/* Ghosts. */
byte sent;                          /* what send() has taken: the sender's stream offset */
byte delivered;                     /* what recv() has returned */

/* TCP, this direction. */
chan tcp = [TCP] of { byte };
bool fin, rst;                      /* as the receiver meets them */
bool broken;                        /* as the sender meets them */
bool linger;                        /* SO_LINGER {1,0}: the kernel resets the connection if the sender is killed now */

/* The words, as their reader sees them. */
byte over, back, produced;
bool finished, ended;               /* ended: the sender's end of the companion is closed */
byte accepted, wish, consumed;
bool receiverGone;                  /* the receiver's end of the companion is closed */
byte ring[RING];
byte kept[RING];                    /* COPIED: the sender's own copy of ring bytes */

/* Doorbells and armed flags. */
bool bellR, bellS, asleepR, asleepS;
byte sleepersR, sleepersS;

bool killedS, killedR;

/* ---- How a word reaches its reader */

#ifdef COPIED
mtype = { OVER, BACK, PUT, PRODUCED, FINISHED, END, ACCEPTED, WISH, CONSUMED };

inline apply(k, v) {
    if
    :: k == OVER -> over = v
    :: k == BACK -> back = v
    :: k == PUT -> ring[v % RING] = v
    :: k == PRODUCED -> produced = v
    :: k == FINISHED -> finished = true
    :: k == END -> ended = true
    :: k == ACCEPTED -> accepted = v
    :: k == WISH -> wish = v
    :: k == CONSUMED -> consumed = v
    fi
}

chan toR = [4] of { mtype, byte };
chan toS = [4] of { mtype, byte };
#define TELL_R(k, v) toR!k, v
#define TELL_S(k, v) toS!k, v
#define RING_R skip                 /* what arrives is the doorbell */
#define RING_S skip
#define KEPT kept

active proctype CourierToR() {
    mtype k; byte v;
end:
    do
    :: atomic { toR?k, v -> apply(k, v); bellR = true }
#ifdef CRASH_SENDER
    :: atomic { killedS -> do :: toR?k, v :: empty(toR) -> break od; ended = true; bellR = true; break }
#endif
#ifdef BROKEN_PUSH_JOINED_IN_PLACE  /* a waiting push of `produced` takes the newest value along */
    :: atomic { toR?PRODUCED, v -> produced = sent; bellR = true }
#endif
    od
}
active proctype CourierToS() {
    mtype k; byte v;
end:
    do
    :: atomic { toS?k, v -> apply(k, v); bellS = true }
#ifdef CRASH_RECEIVER
    :: atomic { killedR -> do :: toS?k, v :: empty(toS) -> break od; receiverGone = true; bellS = true; break }
#endif
    od
}
#else
#define SET_OVER(v) over = v
#define SET_BACK(v) back = v
#define SET_PRODUCED(v) produced = v
#define SET_FINISHED(v) finished = true
#define SET_END(v) ended = true
#define SET_ACCEPTED(v) accepted = v
#define SET_WISH(v) wish = v
#define SET_CONSUMED(v) consumed = v
#define TELL_R(k, v) SET_##k(v)
#define TELL_S(k, v) SET_##k(v)
#define RING_R if :: atomic { asleepR -> asleepR = false; bellR = true } :: else fi
#define RING_S if :: atomic { asleepS -> asleepS = false; bellS = true } :: else fi
#define KEPT ring
#endif

/* Each `atomic` below has one access to what the other end may change at that moment; taking the lock before it and what is
 * private after it cannot be told from outside (Lipton). */

/* ---- The sender's end */

#define onTCP 0
#define inRING 1
bool lockS;
bool pathS;
byte announced;                     /* the last `over` */
bool stands;                        /* it has no `back` yet */
bool wasUsed;                       /* the next may be announced only when `accepted` is 0 */
byte again, againEnd;               /* ring bytes to be sent by TCP before any other */
bool shut;

#define FULL (sent - MAX(consumed, OFFSET(announced)) >= RING)

/* `back`, for every reason, with the lock. The caller looks whether the receiver sleeps. */
inline goBack(stop) {
    stands = false; wasUsed = wasUsed || pathS == inRING; pathS = onTCP;
    TELL_R(BACK, WORD(stop, EPOCH(announced)))
}

/* Answers a wish: looks, and if there is one that counts, decides where the interval ends. With the lock. */
inline lookAtWish(w) {
    w = wish;
    if
    :: w != 0 && stands && !shut && EPOCH(w) == EPOCH(announced) ->
        w = OFFSET(w);
        assert(w >= OFFSET(announced));
        if
        :: pathS == inRING ->
            assert(w <= sent && sent - w <= RING);
            again = w; againEnd = sent;
#ifndef BROKEN_KILLED_WHILE_RESENDING
            linger = again < againEnd
#endif
        :: else
        fi
    :: else -> w = 0
    fi
}

/* One of the bytes to be sent again. With the lock; returns without it. */
inline sendAgain() {
    if
    :: atomic { broken -> again = againEnd; lockS = false }
    :: atomic { !broken && nfull(tcp) ->
            tcp!KEPT[again % RING]; again++;
            if :: again == againEnd -> linger = false :: else fi;
            lockS = false }
    :: atomic { !broken && full(tcp) -> lockS = false }; broken || nfull(tcp)
    fi
}

#ifdef BROKEN_LEFT_WITH_DOORBELL
#define TOOK_DOORBELL w = 0
#else
#define TOOK_DOORBELL w = 1
#endif

proctype Sender() {
    byte w, n; byte overs = 0; bool closing = false;
    {
    do
    :: atomic { shut -> break }
    :: atomic { !shut && sent > 0 && w == 0 -> goto quiet }
    :: atomic { !shut && !lockS -> lockS = true;
            if
            :: again < againEnd -> goto resend
            :: again == againEnd && broken -> shut = true; w = 0; lockS = false; goto next
            :: again == againEnd && !broken -> lookAtWish(w)
            fi };
        if
        :: atomic { w != 0 -> goBack(w); w = 0 }; atomic { RING_R; lockS = false }
        :: atomic { w == 0 && pathS == inRING ->
                if
                :: receiverGone -> shut = true; lockS = false; goto next
                :: !receiverGone -> goto shutdown
                :: !receiverGone -> goBack(sent); goto wake      /* MSG_OOB, splice, exec... */
                :: !receiverGone && !FULL && sent < N ->
                    KEPT[sent % RING] = sent;
#ifdef COPIED
                    TELL_R(PUT, sent);
#endif
                    sent++; TELL_R(PRODUCED, sent); goto wake
                :: !receiverGone && FULL && sent < N -> lockS = false; goto asleep
                fi }
        :: atomic { w == 0 && pathS == onTCP ->
                w = accepted;
                n = 0;
                if :: w == 0 -> wasUsed = false :: else fi;
                if
                :: true -> w = 0; goto shutdown
                :: stands && sent < N && w == announced && sent == OFFSET(announced) -> pathS = inRING; w = 0; lockS = false; goto next
                :: stands && sent < N && w == announced && sent < OFFSET(announced) -> n = OFFSET(announced) - sent
                :: stands && sent < N ->                /* no permission yet (or no use for it) */
                    goBack(OFFSET(announced));
#ifndef BROKEN_NO_CANCEL_DOORBELL
                    goto cancelled
#endif
                :: !stands && sent < N
                fi };
            if
            :: false ->
cancelled:      atomic { RING_R }
            :: atomic { true -> w = 0 }
            fi;
            atomic {
                w = 0;
                if
                :: n == 0 && sent + 1 < N -> n = 2
                :: n == 0 -> n = 1
                :: n > 0
                fi;
                if
#ifdef BROKEN_OVER_BEFORE_ACCEPTED_IS_0
                :: !stands && overs < OVERS ->
#else
                :: !stands && overs < OVERS && !wasUsed ->
#endif
                    announced = WORD(sent + n, 1 - EPOCH(announced)); stands = true; overs++;
#ifdef BROKEN_PRODUCED_WITH_OVER
                    TELL_R(PRODUCED, sent + n); goto announce
#endif
                    TELL_R(OVER, announced)
                :: true
                fi;
                lockS = false
            }
#ifdef BROKEN_PRODUCED_WITH_OVER
            if
            :: false ->
announce:       atomic { TELL_R(OVER, announced); lockS = false }
            :: true
            fi;
#endif
            do                                          /* a TCP send, whole or short */
            :: atomic { n > 0 && !broken && nfull(tcp) -> tcp!sent; sent++; n-- }
            :: atomic { n == 0 || broken -> n = 0; break }
            :: atomic { n > 0 -> n = 0; break }
            od
        fi;
        goto next;
quiet:  /* The program sends nothing before its peer has all that was sent (request and answer). */
        broken || delivered == sent; goto next;
resend: sendAgain(); goto next;
wake:   atomic { RING_R; lockS = false }; goto next;
asleep: /* Full: count, arm, look again, sleep. Who takes a doorbell looks at the wish before it leaves (w != 0: not yet). */
#ifdef BROKEN_ARMED_BEFORE_COUNTED
        asleepS = true;
        if
        :: atomic { pathS == onTCP || !FULL || wish != 0 || receiverGone }
        :: atomic { else -> skip }; sleepersS++; atomic { bellS || receiverGone -> bellS = false; sleepersS--; TOOK_DOORBELL }
        fi;
#else
        atomic { sleepersS++; asleepS = true };
        if
        :: atomic { pathS == onTCP || !FULL || wish != 0 || receiverGone -> sleepersS-- }
        :: atomic { else -> skip }; atomic { bellS || receiverGone -> bellS = false; sleepersS--; TOOK_DOORBELL }
        fi;
#endif
next:   skip
    od;
    goto out;
shutdown: /* With the lock, nothing left to send again: first a wish that has come, then FIN. */
    do
    :: atomic { again < againEnd -> skip }; sendAgain(); LOCK(lockS)
    :: atomic { again == againEnd -> lookAtWish(w); if :: w == 0 -> break :: else fi };
        atomic { goBack(w); w = 0 }; atomic { RING_R }
    od;
    atomic { shut = true; fin = true };
    TELL_R(FINISHED, 1);
    atomic { RING_R; lockS = false };
#ifdef COPIED
    TELL_R(END, 1);
#else
    atomic { ended = true; bellR = true };
#endif
out:
    skip
    } unless { killedS }
}

/* The switch thread, or a thread of the program's that takes the doorbell while it waits for the other direction. */
proctype Other() {
    byte w;
    {
end:
    do
#ifndef BROKEN_RESENT_BY_NEXT_SEND
    :: atomic { again < againEnd && !lockS -> lockS = true };   /* told by whoever answered */
        sendAgain()
#endif
    :: atomic { bellS && sleepersS == 0 -> skip };
        bellS = false;
#ifndef BROKEN_SILENCED_FOR_ANOTHER
        atomic { if :: sleepersS > 0 -> bellS = true :: else fi }; /* somebody went to sleep meanwhile: it may be his */
#endif
#ifndef BROKEN_WISH_EATEN
        atomic { !lockS -> lockS = true; lookAtWish(w) };
        if
        :: atomic { w != 0 -> goBack(w); w = 0 }; atomic { RING_R }
        :: else
        fi;
        do
        :: atomic { again < againEnd -> skip }; sendAgain(); LOCK(lockS)
        :: atomic { again == againEnd -> lockS = false; break }
        od
#endif
    od
    } unless { killedS }
}

/* ---- The receiver's end */

bool lockR;
bool pathR;
byte taken;                         /* the receiver's stream offset */
byte follows;                       /* `accepted`, its own copy */
byte followed;                      /* the last one it followed */
byte inKernel;
bool isWaiting;                     /* for the answer to a wish: no ring byte is taken */
bool stays;                         /* the reason lasts: nothing is accepted any more */
byte wishes;

inline deliver(v) { assert(v == delivered); delivered++ }

inline leaveRing() {
    followed = follows; follows = 0; pathR = onTCP; isWaiting = false;
    TELL_S(ACCEPTED, 0)
}

#define ENDS(b) (b != 0 && EPOCH(b) == EPOCH(follows))
#ifdef BROKEN_ANSWER_IS_BACK_ONLY
#define ANSWERED ENDS(back)
#else
#define ANSWERED (ENDS(back) || over != follows || finished || ended)
#endif
#define SOMETHING (pathR == onTCP || (!isWaiting && produced > taken) || ANSWERED)

proctype Receiver() {
    byte b, o, p, n, v; bool f, first; bool isOver = false;
    {
    do
    :: atomic { isOver -> break }
    :: atomic { !isOver && !lockR -> lockR = true;
            if
            :: pathR == onTCP -> b = back
            :: pathR == inRING && isWaiting && !ANSWERED -> lockR = false; goto asleep
            :: pathR == inRING && !isWaiting && wishes < WISHES ->
                wishes++; isWaiting = true;
                if :: stays = true :: skip fi;
#ifdef BROKEN_WISH_BEFORE_START
                TELL_S(WISH, WORD(taken, EPOCH(follows)));
#else
                TELL_S(WISH, WORD(MAX(taken, OFFSET(follows)), EPOCH(follows)));
#endif
                goto ask
#ifdef BROKEN_FINISHED_READ_LAST
            :: pathR == inRING && (!isWaiting || ANSWERED)
#else
            :: pathR == inRING && (!isWaiting || ANSWERED) -> f = finished || ended
#endif
            fi };
        if
        :: atomic { pathR == onTCP ->
                o = over;
                if
                :: !stays && o != 0 && o != followed && EPOCH(o) != EPOCH(b) && OFFSET(o) >= taken && inKernel == 0 ->
                    follows = o; pathR = inRING; b = 0; o = 0;
#ifndef BROKEN_OLD_WISH
                    TELL_S(WISH, 0)
#endif
                :: true ->                              /* or it does not: it may always decline */
                    inKernel++; lockR = false; n = 3; b = 0; o = 0; goto kernel
                fi };
            atomic { TELL_S(ACCEPTED, follows); lockR = false }
        :: atomic { pathR == inRING ->
#ifdef BROKEN_OVER_READ_EARLY
                o = over };
            b = back;
            atomic { p = produced;
#else
                p = produced };
            b = back;                                   /* in this order: produced, back, over */
            atomic { o = over;
#endif
#ifdef BROKEN_FINISHED_READ_LAST
                f = finished || ended;
#endif
                isWaiting = false;
                if
                :: ENDS(b) -> b = OFFSET(b)
                :: else -> b = 255                      /* no end known */
                fi;
                if
                :: o != follows ->                      /* replaced: it was empty */
                    assert(taken <= OFFSET(follows));
                    leaveRing()
                :: o == follows && taken < OFFSET(follows) && inKernel == 0 ->
                    inKernel++; n = OFFSET(follows) - taken; lockR = false; goto kernel
                :: o == follows && taken < OFFSET(follows) && inKernel > 0 -> lockR = false; goto queue
                :: o == follows && taken >= OFFSET(follows) ->
                    if
#ifdef BROKEN_END_WHEN_EMPTY
                    :: b != 255 && p <= taken -> leaveRing()
#endif
                    :: taken == b -> leaveRing()
                    :: taken < b && p > taken ->
                        deliver(ring[taken % RING]); taken++;
                        TELL_S(CONSUMED, taken); goto wake
                    :: taken < b && p <= taken && f ->  /* drained: TCP knows how it ended */
#if defined(COPIED) && defined(CRASH_SENDER) && !defined(BROKEN_END_WITHOUT_FINISHED)
                        if :: !finished -> isOver = true :: else fi;
#endif
                        stays = true; pathR = onTCP; follows = 0
                    :: taken < b && p <= taken && !f -> lockR = false; goto asleep
                    fi
                fi;
                lockR = false }
        fi;
        goto next;
queue:  inKernel == 0; goto next;
wake:   atomic { RING_S; lockR = false }; goto next;
ask:    /* Always rings: the switch thread is never armed. */
#ifdef COPIED
        lockR = false; goto next;
#else
        atomic { bellS = true; lockR = false }; goto next;
#endif
kernel: /* One real recv of at most n bytes, without the lock. */
        p = 0;
        if
        :: atomic { rst -> isOver = true }
        :: atomic { nempty(tcp) ->
                do
                :: p < n && nempty(tcp) -> tcp?v; deliver(v); p++
                :: p > 0 -> break
                od; v = 0 }
        :: atomic { empty(tcp) && fin && !rst -> assert(delivered == sent); isOver = true }
        fi;
        atomic { !lockR -> taken = taken + p; inKernel--; p = 0 };
        goto next;
asleep: /* Count, arm, look again, sleep. */
        atomic { first = sleepersR == 0; sleepersR++; asleepR = true };
        if
        :: atomic { SOMETHING -> sleepersR-- }
        :: atomic { !SOMETHING -> skip };
            if
            :: atomic { first && (bellR || ended) -> bellR = false; sleepersR-- }
            :: atomic { !first && SOMETHING -> sleepersR-- } /* a second sleeper looks every millisecond */
            fi
        fi;
next:   atomic { b = 0; o = 0; p = 0; n = 0; f = false; first = false }
    od
    } unless { killedR }
}

/* ---- Life and death */

proctype KillSender() {
end:
    atomic { !shut -> killedS = true; broken = true }
    if
    :: true -> atomic { if :: fin :: !linger -> fin = true :: rst = true fi }
#ifndef COPIED
        atomic { ended = true; bellR = true }
#endif
    :: true ->
#ifndef COPIED
        atomic { ended = true; bellR = true }
#endif
        atomic { if :: fin :: !linger -> fin = true :: rst = true fi }
    fi
}

proctype KillReceiver() {
    killedR = true;
    broken = true;
#ifndef COPIED
    atomic { receiverGone = true; bellS = true }
#endif
}

init {
    byte i;
    atomic {
        run Sender(); run Other();
        for (i : 1 .. READERS) { run Receiver() }
#ifdef CRASH_SENDER
        run KillSender();
#endif
#ifdef CRASH_RECEIVER
        run KillReceiver();
#endif
    }
}
