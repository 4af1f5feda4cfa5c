"""Connections that stay open, and are replaced when they should be."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.core.mail import EmailMessage

from mailrail.mail.smtp import Connection, Fate, Pool, SmtpServer, Timeouts, close_pools, pool_of, send_all
from mailrail.mail.smtp.driver import drive
from mailrail.mail.smtp.errors import PoolExhausted
from tests.mail.test_smtp_backend import backend as backend_for
from tests.mail.test_smtp_dialogue import Bag, batch
from tests.processes import until
from tests.smtp_server import Fault, ScriptedServer

TIMEOUTS = Timeouts().capped(30)


def pool_for(server: ScriptedServer, **options: Any) -> Pool:
    return Pool(SmtpServer("127.0.0.1", server.port, timeouts=TIMEOUTS, **options))


def send(pool: Pool, count: int = 1) -> Bag:
    bag = Bag(batch(count))
    with pool.connection() as connection:
        assert send_all([connection], bag) == []
    assert set(bag.fates.values()) == {Fate.ACCEPTED}
    return bag


def test_a_connection_is_used_again() -> None:
    with ScriptedServer() as server:
        pool = pool_for(server)
        for _ in range(3):
            send(pool, 2)
        assert (server.connections, len(server.mails), server.count("NOOP")) == (1, 6, 0)
        pool.close()
        assert server.lines[-1] == b"QUIT"


def test_the_server_restarts_while_the_connection_is_idle() -> None:
    with ScriptedServer() as server:
        pool = pool_for(server)
        send(pool)
        server.drop_all()
        send(pool, 3)
        assert (server.connections, len(server.mails)) == (2, 4)
        pool.close()


@pytest.mark.parametrize("what", ["disconnect", "421 4.4.2 Idle for too long", "garbage"])
@pytest.mark.parametrize("stage", ["MAIL", "RCPT", "DATA"])
def test_a_pooled_connection_that_breaks_at_its_first_email_is_not_that_emails_fault(
    stage: str, what: str
) -> None:
    with ScriptedServer([Fault(stage, what, 1)]) as server:
        pool = pool_for(server)
        send(pool)
        send(pool, 3)
        assert (server.connections, len(server.mails)) == (2, 4)
        pool.close()


def test_no_second_copy_of_what_may_have_been_accepted() -> None:
    with ScriptedServer([Fault("DOT", "accept-disconnect", 1)]) as server:
        pool = pool_for(server)
        send(pool)
        bag = Bag(batch(1))
        with pool.connection() as connection:
            assert send_all([connection], bag) == []
        assert (list(bag.fates.values()), len(server.mails)) == ([Fate.AMBIGUOUS], 2)
        pool.close()


@pytest.mark.parametrize("answer", [None, "disconnect", "421 4.4.2 Idle for too long", "500 5.5.1 What?"])
def test_an_idle_connection_is_asked_whether_it_still_is_one(answer: str | None) -> None:
    with ScriptedServer([Fault("NOOP", answer)] if answer else []) as server:
        pool = pool_for(server, check_after=0.0)
        send(pool)
        send(pool)
        assert (server.count("NOOP"), server.connections) == (1, 2 if answer else 1)
        pool.close()


def test_a_connection_carries_so_many_emails_and_no_more() -> None:
    with ScriptedServer() as server:
        pool = pool_for(server, max_messages=3)
        send(pool, 2)
        send(pool, 6)
        assert (server.connections, len(server.mails), server.lines.count(b"QUIT")) == (3, 8, 2)
        pool.close()


def test_a_connection_is_replaced_at_its_age() -> None:
    with ScriptedServer() as server:
        pool = pool_for(server, max_age=0.0)
        send(pool)
        send(pool)
        assert server.connections == 2
        until(lambda: server.lines.count(b"QUIT") == 2)


def test_a_broken_connection_does_not_go_back() -> None:
    with ScriptedServer([Fault("DOT", "disconnect")]) as server:
        pool = pool_for(server)
        with pool.connection() as connection:
            send_all([connection], Bag(batch(1)))
            assert not connection.is_open
        with pool.connection() as connection:
            assert not connection.is_open
        pool.close()


def test_waiting_for_a_connection_is_bounded() -> None:
    with ScriptedServer() as server:
        pool = pool_for(server, pool_size=1, pool_timeout=0.05)
        taken = pool.take()
        with pytest.raises(PoolExhausted, match=r"All 1 connections to 127\.0\.0\.1 were in use for 0\.05 s"):
            pool.take()
        with ThreadPoolExecutor(1) as executor:
            waiting = executor.submit(pool.take, 30)
            pool.give_back(taken)
            pool.give_back(waiting.result())


def test_many_threads_share_few_connections() -> None:
    with ScriptedServer() as server:
        pool = pool_for(server, pool_size=3)
        with ThreadPoolExecutor(12) as executor:
            list(executor.map(lambda _: send(pool), range(60)))
        assert len(server.mails) == 60 and 1 <= server.connections <= 3
        pool.close()


def test_of_many_logins_those_used_last_keep_their_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailrail.mail.smtp.pool.MAX_IDLE_POOLS", 2)
    with ScriptedServer() as server:
        first, second, third = (pool_for(server, max_messages=most) for most in (101, 102, 103))
        for pool in (first, second, first, third):
            send(pool)
        assert server.connections == 3
        until(lambda: server.open_connections == 2)
        assert server.lines.count(b"QUIT") == 1
        for pool in (first, third):
            send(pool)
        assert server.connections == 3
        send(second)
        assert server.connections == 4 and len(server.mails) == 7
        for pool in (first, second, third):
            pool.close()


def test_equal_servers_share_a_pool() -> None:
    one = pool_of(SmtpServer("mail.example.com", 25, username="a"))
    assert pool_of(SmtpServer("mail.example.com", 25, username="a")) is one
    assert pool_of(SmtpServer("mail.example.com", 25, username="b")) is not one
    assert "secret" not in repr(SmtpServer("mail.example.com", password="secret"))


def test_a_forked_child_leaves_the_parents_connections_alone() -> None:
    """It opens its own; its end, and its goodbyes, do not end the parent's."""
    with ScriptedServer() as server:
        pool = pool_of(SmtpServer("127.0.0.1", server.port, timeouts=TIMEOUTS))
        send(pool)
        held = threading.Event()

        def hold() -> None:
            with pool._changed:  # a lock that nobody would release in the child
                held.set()
                released.wait(30)

        released = threading.Event()
        holder = threading.Thread(target=hold)
        holder.start()
        held.wait(30)
        child = _in_child(lambda: send(pool))
        released.set()
        holder.join()
        assert child == 0
        send(pool)
        assert (server.connections, len(server.mails)) == (2, 3)
        close_pools()
        until(lambda: server.lines.count(b"QUIT") == 2)


def test_a_forked_child_does_not_speak_over_a_connection_that_was_in_use() -> None:
    """As of a ``with get_connection() as …`` around a fork: two dialogues over one connection are none."""
    with ScriptedServer() as server:
        backend, message = backend_for(server), EmailMessage("x", "x", "a@example.com", ["b@example.com"])
        with backend:
            assert backend.send_messages([message]) == 1
            pool = backend._pool
            assert pool is not None

            def send_two() -> None:
                assert backend.send_messages([message, message]) == 2
                backend.close()
                taken = [pool.take(0) for _ in range(pool.server.pool_size)]
                assert taken[0].is_open and not taken[1].is_open
                with pytest.raises(PoolExhausted):
                    pool.take(0)
                for each in taken:
                    pool.give_back(each)

            assert _in_child(send_two) == 0
            assert backend.send_messages([message]) == 1
        assert (server.connections, len(server.mails)) == (2, 4)
        close_pools()


def _in_child(action: Any) -> int:
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)  # it must not hang here, and nobody else would end it
        try:
            action()
            close_pools()
        except BaseException:
            os._exit(1)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    return status


def test_opening_twice_takes_one_link() -> None:
    with ScriptedServer() as server:
        connection = Connection(SmtpServer("127.0.0.1", server.port, timeouts=TIMEOUTS))
        assert drive(connection.open()) is True
        assert drive(connection.open()) is False
        drive(connection.quit())
        assert not connection.is_open and server.connections == 1


def test_a_connection_whose_noop_is_not_answered_yet_is_not_kept() -> None:
    """The next one to use it would take that answer for the one to its own command."""
    with ScriptedServer() as server:
        pool = pool_for(server, check_after=0.0)
        send(pool)
        with pool.connection() as connection:
            checking = connection.open()
            next(checking)
            assert connection.is_open
            checking.close()  # as the driver does when it ends
        assert not connection.is_open
        send(pool)
        assert (server.connections, len(server.mails)) == (2, 2)
        pool.close()
