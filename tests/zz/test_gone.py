async def test_gone(room=None):
    from chatbot.storage.store import Store
    from chatbot.chat.stored_reply import StoredReply, StoredTurns
    from tests.storage.tools import a_session, a_turn
    s = Store(); h = a_session(s); seq = s.add_turn(a_turn(h, reply="secret"))
    t = s.turn(seq); r = StoredReply(t, StoredTurns(s.turn))
    print(r.log.read(0, 99)); s.delete_session(h)
    try: print("after", r.log.read(0, 99))
    except Exception as e: print("raised", e)
