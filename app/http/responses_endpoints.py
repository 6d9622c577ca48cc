"""The endpoints of the Responses and Conversations APIs."""

from app.http.controllers.conversations import (
    AddItemsBody,
    CreateConversationBody,
    UpdateConversationBody,
    add_conversation_items,
    create_conversation,
    delete_conversation,
    delete_conversation_item,
    list_conversation_items,
    retrieve_conversation,
    retrieve_conversation_item,
    update_conversation,
)
from app.http.controllers.responses import (
    cancel_response,
    compact,
    count_input_tokens,
    create_response,
    decoder,
    delete_response,
    list_input_items,
    retrieve_response,
)
from app.http.endpoint import BatchLines
from app.http.endpoint_kinds import inference, stored
from app.responses.compaction import CompactBody
from domain.openai.responses.body import InputFields, ResponseBody
from domain.openai.responses.response import (
    Compaction,
    Conversation,
    Deleted,
    ItemList,
    Response,
    StoredItem,
    TokenCount,
)
from domain.roles import Role

RESPONSES_ENDPOINTS = (
    inference(
        "/v1/responses",
        create_response,
        ResponseBody,
        Response,
        summary="Create a response",
        about="answers to conversations: tools, structured outputs, reasoning, streams; stored by default, so "
        "that later ones can continue them",
        batch_lines=BatchLines(decoder, (Role.GENERATE,)),
        is_streamed=True,
    ),
    stored(
        "GET",
        "/v1/responses/{response_id:str}",
        retrieve_response,
        Response,
        summary="Retrieve a response",
        about="a stored response; with `?stream=true` the events of a background response, after `starting_after`",
        is_streamed=True,
    ),
    stored(
        "DELETE",
        "/v1/responses/{response_id:str}",
        delete_response,
        Deleted,
        summary="Delete a response",
        about="deletes a stored response",
    ),
    stored(
        "POST",
        "/v1/responses/{response_id:str}/cancel",
        cancel_response,
        Response,
        summary="Cancel a response",
        about="cancels a background response",
    ),
    stored(
        "GET",
        "/v1/responses/{response_id:str}/input_items",
        list_input_items,
        ItemList,
        summary="List the input items of a response",
        about="the items of a response's input: `limit`, `order`, `after`",
    ),
    inference(
        "/v1/responses/input_tokens",
        count_input_tokens,
        InputFields,
        TokenCount,
        summary="Count input tokens",
        about="the number of tokens of a response's input",
        body_note="Only the fields that make up the prompt matter here: `model`, `input`, `instructions`, "
        "`previous_response_id`, `conversation`, `tools`, `tool_choice`, `parallel_tool_calls`, "
        "`reasoning.effort`, `chat_template_kwargs` and `truncation`. The others are accepted and ignored.",
    ),
    inference(
        "/v1/responses/compact",
        compact,
        CompactBody,
        Compaction,
        summary="Compact a conversation",
        about="the latest user messages and a summary of the conversation",
        body_note="Only `model`, `input`, `instructions`, `previous_response_id`, `conversation` and the sampling "
        "parameters matter here. The others are accepted and ignored.",
    ),
    stored(
        "POST",
        "/v1/conversations",
        create_conversation,
        Conversation,
        body=CreateConversationBody,
        summary="Create a conversation",
        about="a stored conversation, to which responses can belong",
    ),
    stored(
        "GET",
        "/v1/conversations/{conversation_id:str}",
        retrieve_conversation,
        Conversation,
        summary="Retrieve a conversation",
        about="one conversation",
    ),
    stored(
        "POST",
        "/v1/conversations/{conversation_id:str}",
        update_conversation,
        Conversation,
        body=UpdateConversationBody,
        summary="Update a conversation",
        about="replaces its metadata",
    ),
    stored(
        "DELETE",
        "/v1/conversations/{conversation_id:str}",
        delete_conversation,
        Deleted,
        summary="Delete a conversation",
        about="deletes a conversation and its items",
    ),
    stored(
        "GET",
        "/v1/conversations/{conversation_id:str}/items",
        list_conversation_items,
        ItemList,
        summary="List the items of a conversation",
        about="the items of a conversation: `limit`, `order`, `after`",
    ),
    stored(
        "POST",
        "/v1/conversations/{conversation_id:str}/items",
        add_conversation_items,
        ItemList,
        body=AddItemsBody,
        summary="Add items to a conversation",
        about="appends items",
    ),
    stored(
        "GET",
        "/v1/conversations/{conversation_id:str}/items/{item_id:str}",
        retrieve_conversation_item,
        StoredItem,
        summary="Retrieve an item of a conversation",
        about="one item",
    ),
    stored(
        "DELETE",
        "/v1/conversations/{conversation_id:str}/items/{item_id:str}",
        delete_conversation_item,
        Conversation,
        summary="Delete an item of a conversation",
        about="deletes an item; the answer is the conversation",
    ),
)
