import pytest

from bifrost._host.frames import MAX_FRAME, FrameBuffer, FrameTooLarge, pack, pack_value, with_last


def test_frames_come_out_whole_however_the_bytes_arrive() -> None:
    data = pack_value({"t": "log", "message": "grüße ✓"}) + pack('{"t":"call"}')
    buffer, frames = FrameBuffer(), []
    for byte in data:
        buffer.feed(bytes([byte]))
        while (frame := buffer.next()) is not None:
            frames.append(frame)
    assert frames == [{"t": "log", "message": "grüße ✓"}, {"t": "call"}]


def test_a_lone_surrogate_cannot_break_a_frame() -> None:
    buffer = FrameBuffer()
    buffer.feed(pack_value({"message": "a\udcffb"}))
    assert buffer.next() == {"message": "a?b"}


def test_an_announced_frame_beyond_the_limit_is_refused_before_it_is_read() -> None:
    buffer = FrameBuffer()
    buffer.feed((MAX_FRAME + 1).to_bytes(4, "big"))
    with pytest.raises(FrameTooLarge):
        buffer.next()


def test_only_objects_are_frames() -> None:
    buffer = FrameBuffer()
    buffer.feed(pack("[1]"))
    with pytest.raises(ValueError, match="object"):
        buffer.next()


def test_the_last_result_of_a_process_says_so_where_there_is_room() -> None:
    buffer = FrameBuffer()
    buffer.feed(with_last(pack_value({"t": "result"})))
    assert buffer.next() == {"t": "result", "last": True}
    full = pack_value({"t": "result", "result": "x" * (MAX_FRAME - len('{"t":"result","result":""}'))})
    assert len(full) == MAX_FRAME + 4
    assert with_last(full) == full
