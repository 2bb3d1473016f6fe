"""A plugin of pytest that prints which tests there are, each with its markers: `-p tests.collected --collect-only`."""

import json


def pytest_collection_finish(session):
    found = [
        [item.path.name, str(item.path), [marker.name for marker in item.iter_markers()]] for item in session.items
    ]
    print(f"\ncollected: {json.dumps(found)}")
