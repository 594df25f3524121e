//! Bad endings: each is a failure with the right reason, and never a success.

use domain::executions::Status;
use futures::FutureExt as _;
use serde_json::json;

use crate::support::{Engine, result};

/// Function, body, error type, part of the message.
const ENDINGS: [(&str, &str, &str, &str); 15] = [
    ("raises", "raise ValueError('seven is right out')", "ValueError", "seven is right out"),
    ("exits", "import sys; sys.exit(0)", "NoResult", ""),
    ("exits_hard", "import os; os._exit(0)", "NoResult", "exit code 0"),
    ("segfaults", "import ctypes; ctypes.string_at(0)", "WorkerCrash", "signal"),
    ("kills_itself", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "WorkerCrash", "signal 9"),
    ("eats_memory", "x = bytearray(4 << 30); return len(x)", "ResourceLimit", ""),
    ("recurses", "return raises_never()", "RecursionError", ""),
    ("returns_a_socket", "import socket; return {'s': socket.socket()}", "ResultNotSerializable", ""),
    ("returns_nan", "return {'n': float('nan')}", "ResultNotSerializable", ""),
    ("returns_too_much", "return 'x' * (200 << 20)", "ResultTooLarge", ""),
    ("closes_stdout_and_dies", "import os; os.close(1); os.close(2); os._exit(3)", "NoResult", "exit code 3"),
    (
        "forges_a_frame",
        "import os; os.write(1, b'\\x00\\x00\\x00\\x10{\"t\":\"result\"}xx'); raise KeyError('real')",
        "KeyError",
        "real",
    ),
    (
        "breaks_the_protocol",
        "import os\n    for fd in range(200, 220):\n        try:\n            os.write(fd, b'\\xff' * 64)\n        except OSError:\n            pass\n    return 1",
        "WorkerCrash",
        "",
    ),
    (
        "sends_invalid_utf8",
        "import os, struct, time\n    said = b'{\"t\":\"result\",\"outcome\":\"success\",\"result\":\"\\xff\"}'\n    os.write(200, struct.pack('>I', len(said)) + said)\n    time.sleep(30)",
        "WorkerCrash",
        "wrote to its connection",
    ),
    (
        "says_an_unknown_status",
        "import os, struct, time\n    said = b'{\"t\":\"result\",\"outcome\":\"finished\",\"result\":1}'\n    os.write(200, struct.pack('>I', len(said)) + said)\n    time.sleep(30)",
        "WorkerCrash",
        "unknown outcome",
    ),
];

#[tokio::test]
async fn every_bad_ending_is_a_failure_with_its_reason() {
    let mut source =
        String::from("from bifrost import workflow\n\ndef raises_never():\n    return raises_never()\n");
    for (name, body, ..) in ENDINGS {
        source.push_str(&format!("\n@workflow()\ndef {name}():\n    {body}\n"));
    }
    let engine = Engine::on_files(&[("endings.py", &source)]).await;

    let scope = Engine::admin();
    // Boxed: fifteen of these futures side by side do not fit on a test thread's stack.
    let runs = ENDINGS.iter().map(|(name, ..)| engine.run(&scope, name, json!({})).boxed());
    let mut right = 0;
    for (run, (name, _, kind, message)) in futures::future::join_all(runs).await.into_iter().zip(ENDINGS) {
        let said = run.error_message.clone().unwrap_or_default();
        assert_eq!(run.status, Status::Failed, "{name}: {said}");
        assert_eq!(run.error_type.as_deref(), Some(kind), "{name}: {said}");
        assert!(said.contains(message), "{name}: {said}");
        assert!(run.result.is_none(), "{name}");
        right += 1;
    }
    println!("bad endings: {right}/{}", ENDINGS.len());
    engine.close().await;
}

#[tokio::test]
async fn what_is_no_utf8_or_no_log_is_captured_as_debug() {
    let source = "import os, subprocess\nfrom bifrost import workflow\n\n@workflow()\ndef talks():\n    print('from print')\n    os.write(1, b'caf\\xff\\n')\n    subprocess.run(['sh', '-c', 'echo from a child; echo to stderr >&2'])\n    return {'success': False}\n";
    let engine = Engine::on_files(&[("talks.py", source)]).await;

    let run = engine.run(&Engine::admin(), "talks", json!({})).await;

    assert_eq!((run.status, &result(&run)), (Status::CompletedWithErrors, &json!({ "success": false })));
    let lines = engine.lines(run.id).await;
    for expected in ["from print", "caf\u{fffd}", "from a child", "to stderr"] {
        let line = lines
            .iter()
            .find(|line| line.message == expected)
            .unwrap_or_else(|| panic!("{expected:?} in {lines:?}"));
        assert_eq!((line.level.as_str(), line.user_sequence), ("DEBUG", None), "not for users");
    }
    engine.close().await;
}

#[tokio::test]
async fn what_was_written_before_rubbish_is_kept() {
    let source = "import os, time\nfrom bifrost import workflow\n\n@workflow()\ndef babbles():\n    os.write(1, b'a line\\nhalf a line')\n    os.write(200, b'\\xff' * 64)\n    time.sleep(30)\n";
    let engine = Engine::on_files(&[("babbles.py", source)]).await;

    let run = engine.run(&Engine::admin(), "babbles", json!({})).await;

    assert_eq!((run.status, run.error_type.as_deref()), (Status::Failed, Some("WorkerCrash")));
    let lines = engine.lines(run.id).await;
    let said: Vec<_> = lines.iter().map(|line| (line.level.as_str(), line.message.as_str())).collect();
    assert_eq!(said, [("DEBUG", "a line"), ("DEBUG", "half a line")]);
    engine.close().await;
}

#[tokio::test]
async fn failed_attempts_are_retried_as_the_policy_says() {
    let source = "from bifrost import workflow, context\n\n@workflow(retry_policy={'max_attempts': 3, 'backoff': 0})\ndef unlucky():\n    import logging\n    logging.getLogger(__name__).info('trying')\n    raise ConnectionError('down')\n\n@workflow(retry_policy={'max_attempts': 3, 'backoff': 0, 'retry_on': ['ConnectionError']})\ndef wrong():\n    raise ValueError('no use')\n";
    let engine = Engine::on_files(&[("retries.py", source)]).await;

    let unlucky = engine.run(&Engine::admin(), "unlucky", json!({})).await;
    assert_eq!((unlucky.status, unlucky.attempt), (Status::Failed, 3));
    let lines = engine.lines(unlucky.id).await;
    let tried: Vec<i32> =
        lines.iter().filter(|line| line.message == "trying").map(|line| line.attempt).collect();
    assert_eq!(tried, [1, 2, 3]);
    assert!(
        lines.iter().zip(1..).all(|(line, sequence)| line.sequence == sequence),
        "one sequence over all attempts"
    );
    let wrong = engine.run(&Engine::admin(), "wrong", json!({})).await;
    assert_eq!((wrong.status, wrong.attempt), (Status::Failed, 1), "not listed in retry_on");
    engine.close().await;
}

#[tokio::test]
async fn limits_of_the_log_hold_for_all_attempts_together() {
    const LIMIT: &str = "log limit reached, later lines are not kept";
    let source = "from bifrost import workflow\n\n@workflow(retry_policy={'max_attempts': 4, 'backoff': 0})\ndef says_many():\n    for n in range(9_000):\n        print(n)\n    raise ConnectionError('down')\n\n@workflow(retry_policy={'max_attempts': 4, 'backoff': 0})\ndef says_much():\n    for n in range(40):\n        print('x' * 100_000)\n    raise ConnectionError('down')\n";
    let engine = Engine::on_files(&[("talks.py", source)]).await;
    for workflow in ["says_many", "says_much"] {
        let run = engine.run(&Engine::admin(), workflow, json!({})).await;
        assert_eq!((run.status, run.attempt), (Status::Failed, 4), "{workflow}");
        let lines = engine.lines(run.id).await;
        let bytes: usize = lines.iter().map(|line| line.message.len()).sum();
        let markers = lines.iter().filter(|line| line.message == LIMIT).count();
        println!("{workflow}: {} lines, {bytes} bytes, {markers} marker over 4 attempts", lines.len());
        assert!(lines.len() <= 20_001 && bytes <= (10 << 20) + LIMIT.len(), "{workflow}");
        assert_eq!(markers, 1, "{workflow}");
        let last = lines.last().expect("has lines");
        assert_eq!((last.message.as_str(), last.attempt), (LIMIT, 3), "{workflow}");
    }
    engine.close().await;
}

#[tokio::test]
async fn a_run_cannot_claim_to_have_used_more_than_there_is() {
    let source = "from bifrost import workflow\n\n@workflow()\ndef boasts():\n    import os, struct, time\n    said = b'{\"t\":\"result\",\"outcome\":\"success\",\"result\":1,\"usage\":{\"cpu_seconds\":1e300,\"peak_memory_bytes\":9223372036854775807}}'\n    os.write(200, struct.pack('>I', len(said)) + said)\n    time.sleep(30)\n";
    let engine = Engine::on_files(&[("boasts.py", source)]).await;

    let run = engine.run(&Engine::admin(), "boasts", json!({})).await;

    assert_eq!((run.status, &result(&run)), (Status::Success, &json!(1)), "{:?}", run.error_message);
    let (memory, cpu) =
        (run.peak_memory_bytes.expect("is measured"), run.cpu_total_seconds.expect("is measured"));
    assert!(memory <= 1 << 40 && cpu < 1e6, "{memory} bytes, {cpu} s");
    engine.close().await;
}
