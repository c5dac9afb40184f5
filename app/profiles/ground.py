"""What reads and writes of profiles stand on: rows of this node's stores, and what is known once the log was reached.

Nothing is decided and nothing waits here.
"""

from app.feed.position import identity_of
from app.profiles.claims import Domain
from app.profiles.email import InvalidEmail, normalise
from app.profiles.events import Records
from app.profiles.idempotency import request_key
from app.profiles.ports import Node, ProfileSettings, Reader
from app.profiles.results import ValidationFailed
from app.profiles.schema import email_error
from app.profiles.tokens import Tokens
from app.profiles.topics import TopicNames
from streams.errors import NotOwner, StoreClosed, StoreDamaged, StoreError, Unavailable


class Ground:
    """One instance for each process; the event loop, and `row` and `store_failure` from any thread."""

    def __init__(self, *, node: Node, topics: TopicNames, settings: ProfileSettings) -> None:
        self.node = node
        self.topics = topics
        self.settings = settings
        self._known_domain: Domain | None = None
        self._known_tokens: Tokens | None = None

    @property
    def domain(self) -> Domain:
        """Known once the log was reached, since the partition count is the topic's. Raises Unavailable before."""
        if self._known_domain is None:
            self._known_domain = Domain(Records(self.topics), self.node.partitions)
        return self._known_domain

    @property
    def tokens(self) -> Tokens:
        """Known once the log was reached, since tokens name its topics. Raises Unavailable before."""
        if self._known_tokens is None:
            self._known_tokens = Tokens(secret=self.settings.token_secret, topic_ids=self.node.topic_ids)
        return self._known_tokens

    @property
    def topic_id(self) -> str:
        """What tells the topic of profiles from any other, in exports and the change feed, too. Raises Unavailable
        while the log was never reached."""
        topic = self.topics.profiles
        return identity_of(topic, self.node.topic_ids[topic], self.node.partitions).hex()

    def email_key(self, email: str) -> bytes:
        """Return what an e-mail is searched by. Raises ValidationFailed: not an address."""
        try:
            return normalise(email, self.settings.email_policy).key
        except InvalidEmail:
            raise ValidationFailed([email_error()]) from None

    def create_key(self, document: object, idempotency_key: str | None) -> bytes | None:
        """Return the key whose partition's owner makes a profile of *document*: of the remembered request, or of the
        e-mail. None when there is no e-mail in it, so that nobody will."""
        if idempotency_key is not None:
            return request_key("", idempotency_key)
        email = document.get("email") if isinstance(document, dict) else None
        try:
            return normalise(email, self.settings.email_policy).key if isinstance(email, str) else None
        except InvalidEmail:
            return None

    def reader(self, store: str, partition: int, *, is_replica: bool) -> Reader:
        """Return the reader of a partition that this node owns, or of any copy that it has. Raises Unavailable."""
        return self.node.replica(store, partition) if is_replica else self.node.reader(store, partition)

    def row(self, store: str, partition: int, key: bytes, *, is_replica: bool = False) -> tuple[bytes | None, Reader]:
        """Return a row of this node, and the reader that says how fresh it is. Raises Unavailable."""
        reader = self.reader(store, partition, is_replica=is_replica)
        try:
            return reader.get(key), reader
        except Exception as error:
            raise self.store_failure(reader.explain(error), partition, reader) from error

    def store_failure(self, error: Exception, partition: int, reader: Reader) -> Exception:
        """Return what to raise for a store that failed: damage is rebuilt, a closed store has another owner. What is
        no failure of a store is returned as it is."""
        if isinstance(error, StoreDamaged):
            reader.report_damage(error)
            return Unavailable("the store of this partition is being rebuilt", partition=partition)
        if isinstance(error, StoreClosed):
            return NotOwner("the partition is moving", partition=partition)
        if not isinstance(error, StoreError | OSError):
            return error
        return Unavailable("the store of this partition cannot be read", partition=partition)
