"""A plugin of pytest that prints which tests there are, each with its markers: `-p tests.collected --collect-only`."""

import json


def pytest_collection_finish(session):
    names = [[marker.name for marker in item.iter_markers()] for item in session.items]
    found = [[item.path.name, str(item.path), of] for item, of in zip(session.items, names, strict=True)]
    print(f"\ncollected: {json.dumps(found)}")
